"""The options of unique and of debounced jobs: what they may be, and which contradict each other."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from celery_laravel.errors import ConfigurationError
from celery_laravel.message.durations import in_seconds, is_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Task

UNTIL_PROCESSING = "until_processing"
LATEST = "latest"

UNIQUE_OPTIONS = ("unique", "unique_for", "unique_id", "unique_via", "debounce_for", "max_wait")


class ShouldBeUnique:
    """Makes a job unique: at most one of a key is queued or running, and further dispatches are suppressed.

    The same as the option ``unique=True``. The key is the task alone, or the
    task and what ``unique_id`` names.

        class UpdateSearchIndex(Job, ShouldBeUnique):
            unique_for = 3600

            def unique_id(self, product_id):
                return product_id
    """

    unique: bool | str = True


class ShouldBeUniqueUntilProcessing(ShouldBeUnique):
    """Makes a job unique while it is queued: the next may be dispatched once its code begins.

    The same as the option ``unique="until_processing"``.
    """

    unique = UNTIL_PROCESSING


def refuse_unique_contradictions(task: type[Task], given: Mapping[str, Any]) -> None:
    """Refuse options that cannot stand together, and names in ``unique_id`` that are no arguments of the task.

    Raises:
        ConfigurationError: The message names the task, the options and what to do.
    """
    is_unique, is_debounced = bool(given.get("unique")), "debounce_for" in given
    if is_unique and is_debounced:
        raise _contradiction(
            task,
            f"declares unique = {given['unique']!r} and debounce_for = {given['debounce_for']!r}: the one keeps the "
            "first dispatch, the other the last. Keep one; unique='latest' runs the newest arguments without a delay.",
        )
    for name in ("unique_for", "unique_via"):
        if name in given and not is_unique:
            raise _contradiction(task, f"declares {name} = {given[name]!r} and is not unique. Add unique=True.")
    if "unique_id" in given and not (is_unique or is_debounced):
        raise _contradiction(
            task, f"declares unique_id = {given['unique_id']!r} and is not unique. Add unique=True, or debounce_for."
        )
    if "max_wait" in given and not is_debounced:
        raise _contradiction(task, f"declares max_wait = {given['max_wait']!r} without debounce_for, which it bounds.")
    if "max_wait" in given and in_seconds(given["max_wait"]) < in_seconds(given["debounce_for"]):
        raise _contradiction(
            task,
            f"declares max_wait = {given['max_wait']!r}, which is less than debounce_for = {given['debounce_for']!r}: "
            "every dispatch would wait for max_wait. Make it longer.",
        )
    _refuse_unknown_arguments(task, given.get("unique_id"))


def argument_names(unique_id: Any) -> tuple[str, ...]:
    """The arguments that a ``unique_id`` names; none when it is a callable."""
    if isinstance(unique_id, str):
        return (unique_id,)
    return tuple(unique_id) if isinstance(unique_id, (list, tuple)) else ()


def _refuse_unknown_arguments(task: type[Task], unique_id: Any) -> None:
    names = argument_names(unique_id)
    if not names:
        return
    run = inspect.getattr_static(task, "run")
    is_static = isinstance(run, staticmethod)
    parameters = list(inspect.signature(run.__func__ if is_static else run).parameters.values())[not is_static :]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    for name in names:
        if name not in known:
            raise _contradiction(
                task,
                f"unique_id = {unique_id!r} names {name!r}, which is no argument of it. "
                + (f"Its arguments: {', '.join(known)}." if known else "It has no arguments."),
            )


def _contradiction(task: type[Task], what: str) -> ConfigurationError:
    return ConfigurationError(
        f"Task {task.name!r}: {what}" if what.startswith("unique_id") else f"Task {task.name!r} {what}"
    )


def _is_unique_id(value: Any) -> bool:
    if callable(value) or isinstance(value, str):
        return bool(value)
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(name, str) for name in value)


UNIQUE_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "unique": (
        lambda v: isinstance(v, bool) or (isinstance(v, str) and v in {UNTIL_PROCESSING, LATEST}),
        "True, False, 'until_processing' or 'latest'",
    ),
    "unique_for": (is_duration, "seconds or a timedelta, 0 or None for no fixed end"),
    "unique_id": (
        _is_unique_id,
        "the name of an argument, a sequence of such names, or a function (task, *args, **kwargs)",
    ),
    "unique_via": (lambda v: isinstance(v, str) and "://" in v, "the URL of a store, such as 'redis://host:6379/0'"),
    "debounce_for": (lambda v: is_duration(v) and bool(v), "a number of seconds above 0, or a timedelta"),
    "max_wait": (lambda v: is_duration(v) and bool(v), "a number of seconds above 0, or a timedelta"),
}
