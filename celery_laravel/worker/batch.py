"""The batch's share in an attempt's ending: the member is counted, and callbacks that became due are sent."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery_laravel import events
from celery_laravel.message.arguments import ExceptionArgument
from celery_laravel.message.callbacks import send_callback
from celery_laravel.message.canvas import members_of
from celery_laravel.message.exceptions import exception_to_data
from celery_laravel.stores.records import MemberEnd, MemberState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from celery import Celery

    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import BatchChange, BatchRecord, Callback

logger = logging.getLogger(__name__)


def succeeded(running: RunningJob) -> MemberEnd | None:
    """What to count when a job has succeeded; None for a job that is in no batch."""
    header = running.header
    if header.batch_id is None or header.index is None:
        return None
    return MemberEnd(header.batch_id, header.index, running.id, MemberState.SUCCEEDED)


def failed(running: RunningJob, request: Any, error: BaseException) -> MemberEnd | None:
    """What to count when a job has failed: itself, and the members of its chain or chord that will never run."""
    header = running.header
    if header.batch_id is None or header.index is None:
        return None
    rest = rest_of(request, header.batch_id)
    return MemberEnd(header.batch_id, header.index, running.id, MemberState.FAILED, rest, exception_to_data(error))


def rest_of(request: Any, batch_id: str) -> tuple[int, ...]:
    """The members of a batch that will never run if this one fails: those of its chain, and of its chord."""
    return members_of(request.chain, batch_id) + members_of(request.chord, batch_id)


class BatchCallbacks:
    """Sends the callbacks that a change of a batch made due."""

    def __init__(self, app: Celery, store: Callable[[], Store], make_batch: Callable[[BatchRecord], Any]) -> None:
        self._app = app
        self._store = store
        self._make_batch = make_batch

    def after(self, change: BatchChange | None) -> None:
        """Announce what a change brought about, send what it made due, and clear the marks of what went out.

        A callback that cannot be published keeps its mark, so that it is known
        to be owed; the others are sent all the same.
        """
        if change is None or not change.changed:
            return
        batch = change.batch
        if change.due:
            self.send(batch, change.due)
        if batch.finished_at is not None:
            events.send(events.batch_finished, self._app, batch=self._make_batch(batch))

    def send(self, batch: BatchRecord, callbacks: Sequence[Callback]) -> None:
        """Publish callbacks as jobs of their own, with ids made from the batch's."""
        sent = []
        for callback in callbacks:
            try:
                self._publish(batch, callback)
            except Exception:
                logger.exception("The callback %s could not be published; it stays due", _id_of(batch, callback))
            else:
                sent.append(callback.mark)
        if sent:
            self._store().batches.mark_sent(batch.id, sent)

    def send_overdue(self, overdue: timedelta) -> None:
        """Publish again what has been due for so long; one call of the store where nothing is.

        A callback that has run is recognised by its id and not run again.
        """
        owed: dict[str, tuple[BatchRecord, list[Callback]]] = {}
        for batch, callback in self._store().batches.due(older_than=overdue):
            owed.setdefault(batch.id, (batch, []))[1].append(callback)
        for batch, callbacks in owed.values():
            logger.warning("Batch %s: %d callbacks were due and not sent; they are sent now", batch.id, len(callbacks))
            self.send(batch, callbacks)

    def _publish(self, batch: BatchRecord, callback: Callback) -> None:
        arguments: tuple[Any, ...] = (self._make_batch(batch),)
        if callback.kind == "catch":
            arguments += (ExceptionArgument(batch.first_exception or {}),)
        elif callback.kind == "failure":
            arguments += (ExceptionArgument(callback.exception or {}),)
        connection = batch.options.get("connection")
        send_callback(self._app, callback.signature, _id_of(batch, callback), *arguments, connection=connection)


def _id_of(batch: BatchRecord, callback: Callback) -> str:
    """The id of the job that runs a callback; the same whoever sends it, and however often."""
    return ":".join([batch.id, *(str(part) for part in callback.mark if part is not None)])
