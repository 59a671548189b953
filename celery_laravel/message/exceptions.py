"""Exceptions as data, so that they can travel as JSON and be rebuilt where they arrive."""

from __future__ import annotations

import json
import pickle
import sys
from typing import Any

from celery_laravel.errors import CeleryLaravelError


def exception_to_data(error: BaseException) -> dict[str, Any]:
    """An exception as a mapping of plain values: class, arguments and message.

    Arguments that JSON cannot carry are left out; the message always travels.
    """
    cls = type(error)
    data: dict[str, Any] = {"module": cls.__module__, "class": cls.__qualname__, "message": _message(error)}
    try:
        if json.loads(json.dumps(list(error.args))) == list(error.args):
            data["args"] = list(error.args)
    except (TypeError, ValueError):
        pass  # the arguments are objects: the stand-in will carry the message alone
    return data


def exception_from_data(data: Any) -> BaseException:
    """An instance of the exception's class where it can be found and rebuilt, else of a stand-in of the same name.

    Only classes of modules that are already imported are used, and only
    exceptions, so that data from a message cannot run code of its choosing.
    The stand-in is a `CeleryLaravelError` whose class has the original's name
    and whose text is the original's message.

    Either can be pickled: a worker's main process does that with the arguments
    of each message (Celery 5.7), and ends if it cannot.
    """
    name = str(data.get("class", "Exception"))
    message = str(data.get("message", ""))
    cls = _find_class(str(data.get("module", "")), name)
    if cls is not None and "args" in data:
        try:
            error = cls(*data["args"])
        except Exception:
            error = None
        if error is not None and _message(error) == message and _can_be_pickled(error):
            return error
    short = name.rpartition(".")[2]
    attributes = {"__module__": "celery_laravel.errors", "__reduce__": lambda _: (exception_from_data, (data,))}
    stand_in = type(short if short.isidentifier() else "Exception", (CeleryLaravelError,), attributes)
    error = stand_in(message)
    assert isinstance(error, BaseException)
    return error


def describe(error: BaseException) -> str:
    """``ClassName: message``, as a failed job's record begins."""
    message = _message(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<its message could not be made>"


def _can_be_pickled(error: BaseException) -> bool:
    try:
        pickle.dumps(error)
    except Exception:  # whatever its `__reduce__` raises
        return False
    return True


def _find_class(module: str, qualname: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None
