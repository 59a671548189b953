"""A single job's dispatch: what is added to Celery's ``apply_async``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery.utils import uuid

from celery_laravel import events
from celery_laravel.attempt.deadline import deadline_of
from celery_laravel.errors import ConfigurationError
from celery_laravel.message.header import read_header, with_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_laravel.message.header import Header


_NOT_YET = frozenset({"after_commit", "connection_name", "unique_for"})


def refuse_what_is_not_there(task: Any, options: dict[str, Any]) -> None:
    """Refuse keywords of ``apply_async`` that ask for a feature of later versions; Celery would ignore them.

    Raises:
        ConfigurationError: One of them has a value that asks for the feature.
    """
    for name in _NOT_YET.intersection(options):
        if options[name] is not None and options[name] is not False:
            msg = (
                f"Task {task.name!r}: apply_async({name}={options[name]!r}) asks for what this version does not have. "
                "Remove it."
            )
            raise ConfigurationError(msg)


def needs_dispatcher(task: Any, options: dict[str, Any]) -> bool:
    """Whether a dispatch has anything to add or to announce; a plain task's has not, and goes out untouched."""
    return bool(
        task.job_options.retry_until is not None
        or events.job_queueing.receivers
        or events.job_queued.receivers
        or ("serializer" in options and task.job_options.limits_attempts)
    )


def dispatch(  # noqa: PLR0917  those of `apply_async`
    task: Any,
    publish: Callable[..., Any],
    args: Any,
    kwargs: Any,
    task_id: str | None,
    options: dict[str, Any],
) -> Any:
    """Add what the first message of a job must say, publish it, and announce it.

    A message that only puts a job back (its turn is not the first) is published
    as it is. When publishing fails, its exception is raised and nothing has
    been announced as queued.
    """
    header = read_header(options.get("headers"))
    if header.turn:
        return publish(task_id=task_id, **options)
    header = _complete(task, header, args or (), kwargs or {}, options)
    if not header.is_empty:
        options["headers"] = with_header(options.get("headers"), header)
    task_id = task_id or uuid()
    details = {"task_id": task_id, "args": args or (), "kwargs": kwargs or {}, "queue": options.get("queue")}
    events.send(events.job_queueing, task, **details)
    result = publish(task_id=task_id, **options)
    events.send(events.job_queued, task, **details)
    return result


def _complete(task: Any, header: Header, args: Any, kwargs: Any, options: dict[str, Any]) -> Header:
    if task.job_options.retry_until is not None and header.deadline is None:
        header = replace(header, deadline=deadline_of(task, args, kwargs))
    if options.get("serializer") not in {None, task.serializer}:
        header = replace(header, serializer=options["serializer"])
    return header
