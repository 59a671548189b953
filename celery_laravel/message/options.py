"""What a job declares about itself, checked once when its task is registered."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import FunctionType
from typing import TYPE_CHECKING, Any

from celery_laravel.errors import ConfigurationError
from celery_laravel.message.durations import is_duration
from celery_laravel.message.functions import is_async
from celery_laravel.message.unique_options import UNIQUE_CHECKS, UNIQUE_OPTIONS, refuse_unique_contradictions

if TYPE_CHECKING:
    from celery import Task

Seconds = float

OPTION_NAMES = (
    "tries",
    "max_exceptions",
    "backoff",
    "retry_until",
    "timeout",
    "fail_on_timeout",
    "middleware",
    "failed",
    "tags",
    *UNIQUE_OPTIONS,
)

NOT_YET = (
    "delete_when_missing_models",
    "encrypted",
    "after_commit",
)
"""Options of the documented surface that this version does not have: declaring one is an error, never ignored."""

_CELERYS_RETRYING = (
    "autoretry_for",
    "dont_autoretry_for",
    "max_retries",
    "retry_backoff",
    "retry_backoff_max",
    "retry_jitter",
    "retry_kwargs",
)
_NEVER_OPTIONS = {"name", "app", "run", *OPTION_NAMES, *_CELERYS_RETRYING}

_ALL_OF_CELERYS_RETRYING = ("autoretry_for", "max_retries")


@dataclass(frozen=True)
class JobOptions:
    """The options of one task, as declared; None where nothing was.

    ``backoff`` is a number of seconds, a sequence of them, or a callable
    ``(task, attempt, exc) -> number``; ``retry_until`` a `timedelta`, an aware
    `datetime`, or a callable ``(task, *args, **kwargs)``; ``middleware`` a
    sequence or a callable ``(task, *args, **kwargs)``. A callable takes the task
    first, whether it was written as a method or given to the decorator. ``unique``
    is True, ``until_processing`` or ``latest``; ``unique_id`` the name of an
    argument, several of them, or a callable ``(task, *args, **kwargs)``.
    ``retries_by_celery`` tells that the task declares Celery's own retrying, so
    that a default number of tries is not for it.
    """

    tries: int | None = None
    max_exceptions: int | None = None
    backoff: Any = None
    retry_until: Any = None
    timeout: Seconds | None = None
    fail_on_timeout: bool = False
    middleware: Any = ()
    failed: Callable[..., Any] | None = None
    tags: Any = ()
    unique: bool | str = False
    unique_for: Any = None
    unique_id: Any = None
    unique_via: str | None = None
    debounce_for: Any = None
    max_wait: Any = None
    retries_by_celery: bool = False

    @property
    def limits_attempts(self) -> bool:
        """Whether the job counts its attempts, so that an exception may lead to another one."""
        return self.tries is not None or self.retry_until is not None or self.max_exceptions is not None

    @property
    def outlives_worker(self) -> bool:
        """Whether a job that loses its worker is to run again: its attempts are counted, or it holds a unique lock."""
        return self.limits_attempts or bool(self.unique)

    @property
    def is_checked_at_dispatch(self) -> bool:
        """Whether a dispatch asks the store if this job is wanted at all, beside others of the same key."""
        return bool(self.unique) or self.debounce_for is not None

    @property
    def is_plain(self) -> bool:
        """Whether nothing at all was declared, so that the task behaves as under plain Celery."""
        return self in (_PLAIN, _PLAIN_RETRYING)


_PLAIN = JobOptions()
_PLAIN_RETRYING = JobOptions(retries_by_celery=True)


def read_options(task: type[Task], base: type) -> JobOptions:
    """Read and check what a task's class declares over ``base``, the class that offers the options.

    Raises:
        ConfigurationError: An option is unknown, of the wrong kind, or
            contradicts another; the message names task, option and value.
    """
    _refuse_unknown(task, base)
    given = {name: _declared(task, base, name) for name in OPTION_NAMES}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        _check(task, name, value)
    _refuse_contradictions(task, base, given)
    refuse_unique_contradictions(task, given)
    return JobOptions(**given, retries_by_celery=any(_declared(task, base, name) for name in _ALL_OF_CELERYS_RETRYING))


def _declared(task: type[Task], base: type, name: str) -> Any:
    """The option's value where a class below ``base`` sets it, as it stands in that class."""
    for cls in task.__mro__:
        if cls is base or cls.__name__ == "object":
            continue
        if issubclass(base, cls):
            continue
        if name in vars(cls):
            value = vars(cls)[name]
            return value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    return None


def _refuse_unknown(task: Any, base: type) -> None:
    for name in NOT_YET:
        value = _declared(task, base, name)
        if value:
            msg = f"Task {task.name!r}: the option {name} = {value!r} is not available in this version. Remove it."
            raise ConfigurationError(msg)
    task = getattr(task, "adopted", task)
    is_decorated = "_decorated" in vars(task)
    declares = any(_declared(task, base, name) is not None for name in OPTION_NAMES)
    has_own_base = not _is_ours(task.__mro__[1])
    not_ours = _NEVER_OPTIONS | {name for name, _ in task.from_config}  # Celery sets these when it binds a task
    for name, value in vars(task).items():
        if name.startswith("_") or name in not_ours or any(hasattr(cls, name) for cls in task.__mro__[1:]):
            continue
        near = difflib.get_close_matches(name, OPTION_NAMES, n=1, cutoff=0.8)
        is_slip = near and (declares or len(name) > len("tags")) and not isinstance(value, (FunctionType, property))
        if is_slip:
            raise ConfigurationError(
                f"Task {task.name!r}: unknown option {name} = {value!r}. Did you mean {near[0]!r}?"
            )
        # A base class of the user's own may look for what we do not know.
        if declares and is_decorated and not has_own_base:
            known = ", ".join(OPTION_NAMES)
            raise ConfigurationError(
                f"Task {task.name!r}: unknown option {name} = {value!r}. A job's options: {known}."
            )


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in {"celery", "celery_laravel"}


def _check(task: type[Task], name: str, value: Any) -> None:
    is_valid, wanted = _CHECKS[name]
    if not is_valid(value):
        raise ConfigurationError(f"Task {task.name!r}: {name} must be {wanted}, not {value!r}.")
    if name == "retry_until" and isinstance(value, datetime) and value.tzinfo is None:
        msg = (
            f"Task {task.name!r}: retry_until = {value!r} has no time zone. Give an aware datetime, such as "
            "datetime.now(timezone.utc) + timedelta(hours=1), or a timedelta counted from dispatch."
        )
        raise ConfigurationError(msg)


def _refuse_contradictions(task: type[Task], base: type, given: dict[str, Any]) -> None:
    for ours in ("tries", "retry_until", "max_exceptions"):
        for theirs in _ALL_OF_CELERYS_RETRYING:
            value = _declared(task, base, theirs)
            if ours in given and value:
                msg = (
                    f"Task {task.name!r} declares {ours} = {given[ours]!r} and {theirs} = {value!r}, "
                    f"which both say when to try again. Keep one: {ours} with backoff, or Celery's {theirs}."
                )
                raise ConfigurationError(msg)
    if "timeout" in given and _declared(task, base, "soft_time_limit") is not None:
        msg = (
            f"Task {task.name!r} declares timeout = {given['timeout']!r} and soft_time_limit, "
            "which are the same limit. Keep timeout."
        )
        raise ConfigurationError(msg)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_backoff(value: Any) -> bool:
    if callable(value) or is_duration(value):
        return True
    return (
        isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0 and all(map(is_duration, value))
    )


def _is_middleware(value: Any) -> bool:
    """Whether a value is a list of middleware, or a function that returns one; one that stands alone is neither."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(callable(item) and not isinstance(item, type) and _takes_job_and_next(item) for item in value)
    return isinstance(value, FunctionType) or (callable(value) and not isinstance(value, type) and not _is_layer(value))


def _takes_job_and_next(layer: Any) -> bool:
    if is_async(layer):
        return False
    try:
        inspect.signature(layer).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a built-in says nothing of what it takes
        return True
    return True


def _is_layer(value: Any) -> bool:
    """Whether an object, not a function, is itself a middleware, by the name of the second argument it takes."""
    try:
        return "next" in inspect.signature(value).parameters
    except (TypeError, ValueError):
        return False


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "tries": (_is_count, "a whole number of attempts, 0 for no limit"),
    "max_exceptions": (lambda v: _is_count(v) and v > 0, "a whole number above 0"),
    "backoff": (_is_backoff, "seconds (not negative), a sequence of seconds, or a function (task, attempt, exc)"),
    "retry_until": (
        lambda v: isinstance(v, (timedelta, datetime)) or callable(v),
        "a timedelta, an aware datetime, or a function (task, *args, **kwargs)",
    ),
    "timeout": (lambda v: is_duration(v) and bool(v), "a number of seconds above 0"),
    "fail_on_timeout": (lambda v: isinstance(v, bool), "True or False"),
    "middleware": (
        _is_middleware,
        (
            "a sequence of callables (job, next), instances and not classes nor async, "
            "or a function (task, *args, **kwargs)"
        ),
    ),
    "failed": (
        lambda v: callable(v) and not is_async(v),
        "a function (task, exc, *args, **kwargs), not an async one",
    ),
    "tags": (
        lambda v: (
            callable(v) or (isinstance(v, Sequence) and not isinstance(v, str) and all(isinstance(t, str) for t in v))
        ),
        "a sequence of strings, or a function (task, *args, **kwargs)",
    ),
    **UNIQUE_CHECKS,
}
