"""Functions on their way to a worker: pickled by value, signed, and bound to the id of the one job that runs them.

The signature is an HMAC (SHA-256, by itsdangerous) over the task id and the
pickled bytes, made with ``laravel_secret_key``. It is verified before anything is
unpickled, since unpickling runs code. The first key of several signs, all of
them verify, so that keys can be changed without losing what is queued. Nothing
is encrypted: whoever can read the broker can read what a function captures.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any

from celery import Task

from celery_laravel.errors import ConfigurationError, InvalidSignatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TASK = "celery_laravel.closure"
"""The name of the task that runs closures."""

_SALT = b"celery_laravel.closure"
_ONE_OF_MANY = re.compile(r"(.+:(?:progress|failure):\d+):\d+")


def check_function(function: Any) -> None:
    """Refuse what cannot travel as a closure.

    Raises:
        TypeError: It is no function, a task, a coroutine function, a method of
            a task, or captures one.
    """
    if isinstance(function, Task):
        raise TypeError(f"{function.name!r} is a task, not a closure. Give {function.name}.s(…).")
    if not callable(function):
        raise TypeError(f"A closure must be a function, not {function!r}.")
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{name_of(function)} is a coroutine function, which no worker would await. Give a function.")
    bound = getattr(function, "__self__", None)
    captured = dict(_captures(function), **({} if bound is None else {"self": bound}))
    for name, value in captured.items():
        if isinstance(value, Task):
            msg = (
                f"{name_of(function)} captures {name!r}, the task {value.name!r}, whose request is not that of the job "
                "which will run the function. Call celery_laravel.current_job() inside instead, and capture what you "
                "need of the task as values."
            )
            raise TypeError(msg)


def name_of(function: Any) -> str:
    """What a function is called where people see it: its name and where it was written."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__qualname__", None) or repr(function)
    return str(name) if code is None else f"{name} ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})"


def pack(content: Any, *, function: Any, keys: Sequence[str], task_id: str) -> str:
    """What runs under a task id, signed for it. ``function`` is the one that errors speak of.

    Raises:
        TypeError: It captures what cannot be pickled; the message names it.
        ConfigurationError: There is no key, or the extra is not installed.
    """
    cloudpickle, _ = _modules()
    try:
        data = cloudpickle.dumps(content)
    except Exception as error:  # pickling calls methods of the objects it meets, which may raise anything
        raise TypeError(_unpicklable(function, error)) from error
    text = urlsafe_b64encode(data).decode()
    return f"{text}.{_signer(keys).get_signature(_bound(text, task_id)).decode()}"


def unpack(payload: Any, *, keys: Sequence[str], task_id: str) -> Any:
    """What `pack` was given, if it was signed for this task id with one of the keys.

    Raises:
        InvalidSignatureError: It was not; nothing has been unpickled.
        ConfigurationError: There is no key, or the extra is not installed.
    """
    cloudpickle, _ = _modules()
    text, _, signature = payload.rpartition(".") if isinstance(payload, str) else ("", "", "")
    signer = _signer(keys)
    if not any(signer.verify_signature(_bound(text, bound), signature) for bound in _bindings(task_id)):
        raise InvalidSignatureError(
            f"The closure of job {task_id!r} was not signed for it with a laravel_secret_key of this worker. It was "
            "changed on its way, copied from another job, or signed with a key that this worker does not have."
        )
    return cloudpickle.loads(urlsafe_b64decode(text))


def require_keys(keys: str | Sequence[str] | None) -> Sequence[str]:
    """The keys as a sequence, the one that signs first.

    Raises:
        ConfigurationError: There are none, or the extra is not installed.
    """
    if not keys:
        raise ConfigurationError(
            "Closures are signed, and need the setting 'laravel_secret_key': a long random string, the same for "
            "dispatchers and workers, such as python -c 'import secrets; print(secrets.token_urlsafe(32))' prints."
        )
    _modules()
    return [keys] if isinstance(keys, str) else keys


def _signer(keys: Sequence[str]) -> Any:
    _, itsdangerous = _modules()
    oldest_first = list(reversed(keys))  # itsdangerous signs with the last
    return itsdangerous.Signer(oldest_first, salt=_SALT, key_derivation="hmac", digest_method=hashlib.sha256)


def _bindings(task_id: str) -> list[str]:
    """What a job's closure may be signed for: its id, or all the jobs that it was registered for at once.

    These are the jobs that catch failures of one chain, in any round, and those
    of one ``progress`` or failure callback of a batch, whatever the member.
    """
    if found := _ONE_OF_MANY.fullmatch(task_id):
        return [task_id, found[1]]
    chain_id, separator, _ = task_id.rpartition(":catch:")
    return [task_id, f"{chain_id}:catch"] if separator else [task_id]


def _bound(text: str, task_id: str) -> str:
    return f"{len(task_id)}:{task_id}:{text}"


def _modules() -> tuple[Any, Any]:
    try:
        import cloudpickle
        import itsdangerous
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Closures need the module {error.name!r}, which is not installed: pip install 'celery-laravel[closures]'."
        ) from error
    return cloudpickle, itsdangerous


def _captures(function: Any) -> dict[str, Any]:
    """The variables around a function that it uses, and the defaults of its parameters, by name."""
    inner = inspect.unwrap(function)
    found: dict[str, Any] = {}
    cells = getattr(inner, "__closure__", None) or ()
    names = inner.__code__.co_freevars if cells else ()
    for name, cell in zip(names, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    defaults = getattr(inner, "__defaults__", None) or ()
    found.update((f"a default of its parameters, {value!r}", value) for value in defaults)
    return found


def _unpicklable(function: Callable[..., Any], error: Exception) -> str:
    cloudpickle, _ = _modules()
    for name, value in _captures(function).items():
        try:
            cloudpickle.dumps(value)
        except Exception:  # whatever its methods raise, this is the one
            return f"{name_of(function)} captures {name!r} = {value!r}, which cannot travel to a worker: {error}"
    return f"{name_of(function)} cannot travel to a worker: {error}"
