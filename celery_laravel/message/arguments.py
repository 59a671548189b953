"""A job's arguments: whether they fit its task, and how the library's own values among them travel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_laravel.message.exceptions import exception_from_data

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_EXCEPTION = "celery_laravel.exception"


class ExceptionArgument:
    """An exception on its way to a callback: it leaves as data and arrives as an instance of its class."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data

    def __json__(self) -> dict[str, Any]:
        return envelope(_EXCEPTION, self.data)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exception_from_data, (self.data,)

    def __repr__(self) -> str:
        return f"{self.data.get('class')}({self.data.get('message')!r})"


def envelope(kind: str, value: Any) -> dict[str, Any]:
    """A value as kombu's JSON carries it, for a decoder registered under ``kind``."""
    return {"__type__": kind, "__value__": value}


def register_decoder(kind: str, cls: type, decode: Callable[[Any], Any]) -> None:
    """Teach kombu's JSON to read what `envelope` writes. Doing so twice changes nothing."""
    from kombu.utils.json import register_type

    register_type(cls, kind, lambda value: value.__json__()["__value__"], decode)


def register_exceptions() -> None:
    """Teach kombu's JSON to read exceptions sent as `ExceptionArgument`."""
    register_decoder(_EXCEPTION, ExceptionArgument, exception_from_data)


def check_arguments(task: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> None:
    """Refuse arguments that a task does not take, as Celery's ``apply_async`` does where it can.

    It cannot for a task whose class was registered (``app.register_task``):
    Celery makes the check out of the function that a decorator is given.

    Raises:
        TypeError: They do not fit.
    """
    check = getattr(task, "__header__", None) if task.typing else None
    if check is not None:
        check(*(args or ()), **(kwargs or {}))
