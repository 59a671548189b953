"""A dispatch that was suppressed: who learns of it, and how whatever waits for it goes on."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery._state import _set_current_app, _tls
from celery.app.task import Context
from celery.canvas import group
from celery.canvas import signature as to_signature
from kombu.utils.functional import maybe_list

from celery_laravel import events

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celery import Celery

logger = logging.getLogger("celery_laravel.unique")


def suppress(  # noqa: PLR0917  the parts of one dispatch
    task: Any,
    task_id: str,
    holder_id: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    link: Any,
    *,
    is_awaited: bool,
) -> Any:
    """Announce a dispatch that sends nothing, and return the result of the job that holds the lock.

    ``is_awaited``: the id was given (by a chain, a group, a chord, or the
    caller), so that somebody may wait for it. It is then settled as done, with
    None for its result.

    Raises:
        Exception: What follows the job could not be sent.
    """
    logger.debug("%s[%s] is not dispatched: %s holds its unique lock", task.name, task_id, holder_id)
    events.send(events.unique_job_skipped, task, task_id=task_id, args=args, kwargs=kwargs, holder_id=holder_id)
    if is_awaited:
        settle_as_done(task, task_id, args, kwargs, options, link)
    result = task.AsyncResult(holder_id)
    result.suppressed = True
    return result


def settle_as_done(  # noqa: PLR0917  the parts of one dispatch
    task: Any, task_id: str, args: Any, kwargs: Any, options: Mapping[str, Any], link: Any
) -> None:
    """Do what Celery does when a job has returned None: send what follows it, store its result, count it in its chord.

    In this order, as Celery does it, so that whoever sees the result knows that
    the next step is on its way.
    """
    root_id = options.get("root_id") or task_id
    family = {"parent_id": task_id, "root_id": root_id}
    callbacks = [to_signature(callback, app=task.app) for callback in maybe_list(link) or ()]
    if len(callbacks) == 1:
        callbacks[0].apply_async((None,), **family)
    elif callbacks:
        group(callbacks, app=task.app).apply_async((None,), **family)
    chain = options.get("chain")
    if chain:
        to_signature(chain[-1], app=task.app).apply_async((None,), chain=chain[:-1], **family)
    context = Context(
        id=task_id,
        task=task.name,
        args=args,
        kwargs=kwargs,
        chord=options.get("chord"),
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        root_id=root_id,
        parent_id=options.get("parent_id"),
        reply_to=options.get("reply_to") or task.app.thread_oid,
        correlation_id=task_id,
        delivery_info={},
        ignore_result=options.get("ignore_result", task.ignore_result),
    )
    with _as_current(task.app):
        task.backend.mark_as_done(task_id, None, request=context, store_result=not context.ignore_result)


@contextmanager
def _as_current(app: Celery) -> Iterator[None]:
    """Make an app the current one of this thread, as it is in a worker: Celery 5.5 ends chords by that app."""
    previous = _tls.current_app
    app.set_current()
    try:
        yield
    finally:
        _set_current_app(previous)
