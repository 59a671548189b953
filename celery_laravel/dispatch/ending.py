"""The end of a batch's dispatch: once jobs have been sent it must be written down, by the store or by the broker."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_laravel.dispatch.connections import producers_of
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.message.canvas import first_tasks_of
from celery_laravel.message.debts import SETTLE
from celery_laravel.stores.dispatch_ends import end_dispatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Celery

    from celery_laravel.dispatch.bulk import Member, MemberOptions
    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import BatchChange, DispatchEnd

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds for which a dispatch tries to reach the store or the broker, before it gives up."""
_PAUSE = 0.5
_WHERE = ("exchange", "queue", "routing_key")


class Taken(Enum):
    """Who has taken note of the end of a dispatch."""

    STORE = "the store"
    BROKER = "the broker, until the store is back"
    NOBODY = "nobody"


class Ending(NamedTuple):
    """How a dispatch ended: who knows, what its last step changed in the store, why the store does not know."""

    taken: Taken
    change: BatchChange | None = None
    error: Exception | None = None


def end_surely(
    app: Celery, store: Store, end: DispatchEnd, where: Callable[[], Mapping[str, Any]], connection: str | None = None
) -> Ending:
    """Write down the end of a dispatch, or hand it to the broker, in a message from which a worker writes it down.

    Store and broker are asked in turn, for `PATIENCE` seconds if neither
    answers. Raises nothing: this follows upon what has been sent, and upon an
    exception that is to be seen. ``where`` gives the options that send the
    message to a queue that is worked, and ``connection`` is the broker's name.
    """
    try:
        return _insist(app, store, end, where, connection)
    except Exception as error:  # a job's time limit among them
        logger.exception("The end of the dispatch of batch %s could not be written down", end.batch_id)
        return Ending(Taken.NOBODY, error=error)


def address_of(app: Celery, asked: MemberOptions, member: Member | None) -> dict[str, Any]:
    """The options that send a message to the queue of a member, whose workers are those of its batch."""
    if member is None:
        return {"queue": asked.queue} if asked.queue else {}
    first = next(iter(first_tasks_of(asked.signature_of(app, member, 0))))
    task = app.tasks.get(first["task"])
    options = {name: getattr(task, name, None) for name in _WHERE} | first["options"]
    options = {name: value for name in _WHERE if (value := options.get(name)) is not None}
    found = app.amqp.router.route(options, first["task"], first["args"], first["kwargs"], task_type=task)
    return {name: found[name] for name in _WHERE if found.get(name) is not None}


def _insist(
    app: Celery, store: Store, end: DispatchEnd, where: Callable[[], Mapping[str, Any]], connection: str | None
) -> Ending:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            changes = end_dispatch(store.batches, end)
            return Ending(Taken.STORE, changes[-1] if changes else None)
        except StoreUnavailableError as error:
            if _hand_over(app, end, where, connection, error):
                return Ending(Taken.BROKER, error=error)
            if time.monotonic() >= deadline:
                return Ending(Taken.NOBODY, error=error)
        time.sleep(_PAUSE * random.uniform(0.5, 1.5))


def _hand_over(
    app: Celery,
    end: DispatchEnd,
    where: Callable[[], Mapping[str, Any]],
    connection: str | None,
    error: StoreUnavailableError,
) -> bool:
    if app.conf.task_always_eager:  # there is no broker
        return False
    debt = {"job_id": end.batch_id, "task": "Bus.batch", "dispatch": asdict(end)}
    try:
        with producers_of(app, connection).acquire(block=True) as producer:
            app.send_task(SETTLE, (debt,), producer=producer, ignore_result=True, **where())
    except Exception:
        logger.exception(
            "The end of the dispatch of batch %s: neither the store (%s) nor the broker takes note of it",
            end.batch_id,
            error,
        )
        return False
    logger.warning(
        "The dispatch of batch %s is over; the broker keeps that until the store is back: %s", end.batch_id, error
    )
    return True
