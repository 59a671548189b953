"""A batch as one job among others: a step of a chain, a member of a batch, a part of any canvas.

The batch travels as data in the message of a job of its own, which dispatches
it and then waits without a process: its message is laid up with the batch, as
a callback, and comes again when the batch has failed or has finished. So to
Celery the batch is one task that takes long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.canvas import Signature
from celery.utils import uuid

from celery_laravel.dispatch.callbacks import as_data
from celery_laravel.dispatch.ending import Taken, end_surely
from celery_laravel.dispatch.members import members_of_batch, options_for, sending
from celery_laravel.errors import BatchNotFoundError, ConfigurationError
from celery_laravel.message.canvas import tasks_of
from celery_laravel.stores.records import BatchChange, Callback, DispatchEnd, NewBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from celery import Celery

    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import BatchRecord

TASK = "celery_laravel.batch"
"""The name of the job that dispatches a batch and ends with it."""

_AFTER_ITS_OWN = 1_000_000
"""Turns from one message that wakes the job to the next: more than the job can have put itself back before."""


def step_of(app: Celery, new: NewBatch, jobs: Any, countdown: float | None) -> Signature:
    """The job that stands for a batch; for one dispatch, as the batch has its id already.

    Every member is given its id now. Should the job be started again, because
    its worker died while it sent them, their messages are copies of the first.

    Raises:
        TypeError: A member is no signature, or JSON cannot carry its arguments.
        ConfigurationError: A member is no job, or the app lacks the library.
    """
    if TASK not in app.tasks:
        msg = f"The app {app.main!r} knows no job for batches within a canvas. Call install(app) where the app is made."
        raise ConfigurationError(msg)
    members = [member.own() for member in members_of_batch(app, jobs)]
    for task in tasks_of(members):
        task["options"].setdefault("task_id", uuid())
    batch = {
        "id": new.id,
        "name": new.name,
        "options": dict(new.options),
        "callbacks": {kind: list(signatures) for kind, signatures in new.callbacks.items()},
        "allows_failures": new.allows_failures,
        "jobs": [as_data("Bus.batch", member, carried="travel") for member in members],
        "countdown": countdown,
    }
    shown = repr({"batch": new.name or new.id, "jobs": len(members)})
    return Signature(TASK, kwargs={"batch": batch}, options={"kwargsrepr": shown}, app=app, immutable=True)


def inherit_queue(signature: Any, queue: str) -> None:
    """Let batches among the tasks of a signature go to a queue, unless they name one."""
    for task in tasks_of(signature):
        if task["task"] == TASK:
            task["kwargs"]["batch"]["options"].setdefault("queue", queue)


class ChainedBatch:
    """A batch as it arrives in the message of its job, while that dispatches it."""

    def __init__(self, app: Celery, store: Store, data: Mapping[str, Any]) -> None:
        self._app = app
        self._store = store
        self._data = data

    def start(
        self, wakes: Mapping[str, Mapping[str, Any]], after_change: Callable[[BatchChange | None], None]
    ) -> BatchRecord:
        """Create the batch and send its members; what was done before is not done again, save that messages go again.

        Args:
            wakes: What is to wake the job, by the kind of callback.
            after_change: Sends callbacks that have become due.

        Raises:
            RuntimeError: The batch is another job's: its signature was dispatched twice.
            Exception: Whatever the broker raises; some members may have been sent.
        """
        callbacks = {kind: list(registered) for kind, registered in self._data["callbacks"].items()}
        for kind, wake in wakes.items():
            callbacks.setdefault(kind, []).append(dict(wake))
        data = self._data
        new = NewBatch(data["id"], data["name"], data["options"], callbacks, data["allows_failures"])
        record = self._store.batches.create(new)
        if _waiting_for(record.callbacks) != _waiting_for(callbacks):
            msg = f"Batch {record.id!r} has been dispatched before. Make its chain, or its signature, anew each time."
            raise RuntimeError(msg)
        if record.is_open:
            self._send(record, _before(record), after_change)
        return record

    def close(self, where: Callable[[], Mapping[str, Any]] = dict) -> BatchChange | None:
        """Say that the dispatch is over; None when the broker keeps that for the store.

        Args:
            where: Gives the options that send a message to this job's queue.

        Raises:
            BatchNotFoundError: The batch has been deleted.
            Exception: Neither store nor broker takes it: what keeps the store from it.
        """
        ending = end_surely(self._app, self._store, DispatchEnd(self._data["id"], closes=True), where)
        if ending.taken is Taken.NOBODY and ending.error is not None:
            raise ending.error
        if ending.taken is Taken.STORE and ending.change is None:
            raise BatchNotFoundError(self._data["id"])
        return ending.change

    def cancel(self, where: Callable[[], Mapping[str, Any]] = dict) -> None:
        """Cancel the batch: its job has failed. Where neither store nor broker takes that, the log says so."""
        end_surely(self._app, self._store, DispatchEnd(self._data["id"], cancels=True), where)

    def _send(
        self, record: BatchRecord, before: Iterable[Callback], after_change: Callable[[BatchChange | None], None]
    ) -> None:
        members = members_of_batch(self._app, self._data["jobs"])
        size = sum(member.size for member in members)
        if not record.total_jobs:
            after_change(BatchChange(record, changed=True, due=tuple(before)))
            self._store.batches.add(record.id, size)
        if members:
            asked = options_for(record, self._data["countdown"])
            with sending(self._app, self._store, asked) as send:
                unsent = send(members, 0)
            if unsent is not None:
                raise unsent.error


def turn_of_wake(number: int) -> int:
    """The turn of the message that wakes the job for the first time, or the second."""
    return number * _AFTER_ITS_OWN


def _before(record: BatchRecord) -> list[Callback]:
    return [Callback("before", *numbered) for numbered in enumerate(record.callbacks.get("before", ()))]


def _waiting_for(callbacks: Mapping[str, Any]) -> Any:
    """The id of the job that waits for a batch with these callbacks."""
    return [signature["options"]["task_id"] for signature in callbacks.get("next", ())]
