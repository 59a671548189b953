"""Callbacks as users give them: a task, a signature, a signature as data, or a function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.canvas import Signature
from kombu.utils.json import dumps, loads

from celery_laravel.dispatch.closures import PendingClosure
from celery_laravel.settings import settings_of

if TYPE_CHECKING:
    from celery import Celery


def callback_of(app: Celery, kind: str, given: Any) -> Signature | PendingClosure:
    """The callback that a user means; ``kind`` is the method it was given to, for the error.

    Raises:
        TypeError: It is none, or a function and there is no ``laravel_secret_key``.
    """
    if isinstance(given, Task):
        return given.s()
    if isinstance(given, (Signature, PendingClosure)):
        return given
    if isinstance(given, Mapping) and "task" in given:
        return Signature.from_dict(dict(given), app=app)
    if callable(given) and settings_of(app).secret_key:
        return PendingClosure(app, given)
    raise TypeError(
        f"{kind}({given!r}): a callback must be a task's signature, such as task.s(). "
        "A plain function travels to a worker only with the setting 'laravel_secret_key', which signs it; "
        "or decorate it with @app.task and give function.s()."
    )


def as_data(kind: str, callback: Signature, *, carried: str) -> dict[str, Any]:
    """A callback's signature as data; ``carried`` says in the error how its arguments are, such as "travel".

    Raises:
        TypeError: JSON cannot carry its arguments.
    """
    try:
        data: dict[str, Any] = loads(dumps(dict(callback)))
    except (TypeError, ValueError) as error:
        msg = f"{kind}({callback!r}): its arguments {carried} as JSON, which cannot carry them: {error}"
        raise TypeError(msg) from error
    return data
