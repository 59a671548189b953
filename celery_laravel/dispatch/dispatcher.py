"""A single job's dispatch: what is added to Celery's ``apply_async``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery.utils import uuid

from celery_laravel import events
from celery_laravel.attempt.deadline import deadline_of
from celery_laravel.dispatch import debounce, unique
from celery_laravel.dispatch.one_step import OneStep
from celery_laravel.dispatch.suppressed import suppress
from celery_laravel.errors import ConfigurationError
from celery_laravel.message.header import read_header, with_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_laravel.message.header import Header


_NOT_YET = frozenset({"after_commit"})


def is_met(condition: Any) -> bool:
    """Whether a condition of a dispatch holds: a value, or a callable without arguments."""
    return bool(condition() if callable(condition) else condition)


def refuse_what_is_not_there(task: Any, options: dict[str, Any]) -> None:
    """Refuse keywords of ``apply_async`` that ask for what is not to be had; Celery would ignore them.

    Raises:
        ConfigurationError: One of them has a value that asks for a feature of
            later versions, or ``unique_for`` is given for a task that is not
            unique.
    """
    unique.check_unique_for(task, options.get("unique_for"))
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
        or task.job_options.is_checked_at_dispatch
        or "unique_for" in options
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
    link: Any,
    options: dict[str, Any],
    *,
    producer: Any = None,
    is_plain: bool = False,
) -> Any:
    """Add what the first message of a job must say, publish it, and announce it; or send nothing, as it is suppressed.

    A message that only puts a job back is published as it is, once its unique
    lock is sure to last until it comes. When publishing fails, its exception is
    raised, the lock is free again, and nothing has been announced as queued.
    ``is_plain``: the options are all that is asked for, and ``publish`` takes a
    producer in the place of the one given here.
    """
    unique_for = options.pop("unique_for", None)
    header = read_header(options.get("headers"))
    if header.was_dispatched:
        return _send_again(task, publish, header, task_id, options)
    args, kwargs = args or (), kwargs or {}
    is_awaited, task_id = task_id is not None, task_id or uuid()
    if not unique.is_checked(task, header):
        return _send(task, publish, header, args, kwargs, task_id, options)
    lock = unique.lock_of(task, task_id, args, kwargs, options, unique_for)
    step = OneStep.of(task, lock, options, producer) if is_plain else None
    answer = None if step is None else step.send(args, kwargs, task_id)
    if answer is not None and answer.acquired:
        assert step is not None
        return step.result(task_id)
    holder_id = lock.take() if answer is None else answer.owner
    if holder_id is not None:
        is_awaited = is_awaited and lock.own_attempt is None  # which settles its id by itself
        return suppress(task, task_id, holder_id, args, kwargs, options, link, is_awaited=is_awaited)
    try:
        publish = publish if step is None else step.noting(publish)
        result = _send(task, publish, lock.written_into(header), args, kwargs, task_id, options)
    except Exception:
        lock.give_up()
        raise
    lock.confirm()
    result.suppressed = False
    return result


def _send_again(
    task: Any, publish: Callable[..., Any], header: Header, task_id: str | None, options: dict[str, Any]
) -> Any:
    lock = None if task_id is None else unique.lock_of_waiting(task, header, task_id)
    if lock is None:
        return publish(task_id=task_id, **options)
    lock.hold_on()
    result = publish(task_id=task_id, **options)
    lock.confirm()
    return result


def _send(  # noqa: PLR0917  the parts of one dispatch
    task: Any,
    publish: Callable[..., Any],
    header: Header,
    args: Any,
    kwargs: Any,
    task_id: str,
    options: dict[str, Any],
) -> Any:
    place = None
    if debounce.is_debounced(task, header):
        place = debounce.reserve(task, task_id, args, kwargs, options)
        header = place.written_into(header)
    header = _complete(task, header, args, kwargs, options)
    if not header.is_empty:
        options["headers"] = with_header(options.get("headers"), header)
    details = {"task_id": task_id, "args": args, "kwargs": kwargs, "queue": options.get("queue")}
    events.send(events.job_queueing, task, **details)
    result = publish(task_id=task_id, **options)
    if place is not None:
        place.confirm()
    events.send(events.job_queued, task, **details)
    return result


def _complete(task: Any, header: Header, args: Any, kwargs: Any, options: dict[str, Any]) -> Header:
    if task.job_options.retry_until is not None and header.deadline is None:
        header = replace(header, deadline=deadline_of(task, args, kwargs))
    if options.get("serializer") not in {None, task.serializer}:
        header = replace(header, serializer=options["serializer"])
    return header
