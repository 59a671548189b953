"""A batch as its users hold it: a snapshot, and what can be done with the batch itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import current_app

from celery_laravel import events
from celery_laravel.dispatch.failed_jobs import retry_failed_job, to_retry
from celery_laravel.dispatch.members import publish_members
from celery_laravel.dispatch.plain_batch import as_plain
from celery_laravel.dispatch.watching import async_snapshots, snapshots
from celery_laravel.errors import BatchNotFoundError
from celery_laravel.message.arguments import envelope, register_decoder
from celery_laravel.stores.dispatch_ends import end_dispatch
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import DispatchEnd
from celery_laravel.stores.serialization import batch_from_data, batch_to_data

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    from celery import Celery

    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import BatchRecord

_KIND = "celery_laravel.batch"


class Batch:
    """A batch of jobs, as it stood when it was looked at; `fresh` looks again.

    The attributes are those of that moment. ``total_jobs`` is always the sum of
    those that succeeded, failed, will never run, and are pending.

        batch = Bus.find_batch(batch_id)
        print(f"{batch.progress} %, {batch.failed_jobs} failed")
    """

    __slots__ = ("_app", "_record")

    def __init__(self, record: BatchRecord, app: Celery | None = None) -> None:
        self._record = record
        self._app = app

    # -- what it is

    @property
    def id(self) -> str:
        """The batch's id."""
        return self._record.id

    @property
    def name(self) -> str:
        """The name it was given, or an empty string."""
        return self._record.name

    @property
    def total_jobs(self) -> int:
        """How many jobs have been added so far."""
        return self._record.total_jobs

    @property
    def pending_jobs(self) -> int:
        """How many jobs are outstanding, that is waiting, running or to be tried again."""
        return self._record.pending_jobs

    @property
    def failed_jobs(self) -> int:
        """How many jobs have failed for good and are not being retried."""
        return self._record.failed_jobs

    @property
    def skipped_jobs(self) -> int:
        """How many jobs will never run, because the chain they stand in ended before them."""
        return self._record.skipped_jobs

    @property
    def failed_job_ids(self) -> list[str]:
        """The ids of the failed jobs, in no particular order.

        A snapshot holds a hundred of them; of more, all are asked of the store, as they are at that moment.
        """
        known = self._record.failed_job_ids
        return list(known) if len(known) >= self.failed_jobs else self._store.batches.failed_ids(self.id)

    @property
    def options(self) -> Mapping[str, Any]:
        """What ``with_option`` and ``on_queue`` set."""
        return self._record.options

    @property
    def created_at(self) -> datetime:
        """When it was created."""
        return self._record.created_at

    @property
    def cancelled_at(self) -> datetime | None:
        """When it was cancelled, or None."""
        return self._record.cancelled_at

    @property
    def finished_at(self) -> datetime | None:
        """When its last job ended, or None while jobs are outstanding."""
        return self._record.finished_at

    @property
    def processed_jobs(self) -> int:
        """How many jobs are no longer outstanding."""
        return self.total_jobs - self.pending_jobs

    @property
    def progress(self) -> int:
        """Per cent of the jobs that are no longer outstanding, rounded; at most 99 before the batch has finished."""
        if self.finished:
            return 100
        return min(99, int(100 * self.processed_jobs / self.total_jobs + 0.5)) if self.total_jobs else 0

    @property
    def finished(self) -> bool:
        """Whether no job is outstanding."""
        return self._record.finished_at is not None

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled, by hand or by its first failure."""
        return self._record.cancelled_at is not None

    @property
    def has_failures(self) -> bool:
        """Whether any job has failed for good."""
        return self.failed_jobs > 0

    @property
    def allows_failures(self) -> bool:
        """Whether a failed job leaves the batch going."""
        return self._record.allows_failures

    def to_dict(self) -> dict[str, Any]:
        """The batch as values that JSON can carry; instants in ISO 8601, and of the failed jobs at most 100 ids."""
        return as_plain(self, self._record.failed_job_ids)

    # -- what can be done with it

    def add(self, signatures: Any) -> Batch:
        """Add jobs: a signature, or any iterable of signatures and lists (chains). Returns the batch afterwards.

        Meant for a job of the batch itself, which keeps it from finishing.

        Raises:
            BatchFinishedError: The batch has finished; nothing was added.
            BatchNotFoundError: It is no longer in the store.
            BatchDispatchError: Not all could be sent; the batch is cancelled.
            StoreUnavailableError: The store did not answer, and nothing was sent.
            OperationalError: The broker cannot be reached; nothing was added.
            ConfigurationError: It goes through a connection that this process does not know.
        """
        publish_members(self._celery, self._store, self._record, signatures)
        return self._look()

    def cancel(self) -> Batch:
        """Cancel the batch, and return it as it is then.

        Jobs that ask (``self.batch.cancelled``) see it; nothing is stopped by force. The second time changes nothing.

        Raises:
            BatchNotFoundError: It is no longer in the store.
        """
        change = self._store.batches.cancel(self.id)
        if change is None:
            raise BatchNotFoundError(self.id)
        batch = Batch(change.batch, self._app)
        if change.changed:
            events.send(events.batch_cancelled, self._celery, batch=batch)
        return batch

    def close(self, *, incomplete: bool = False, unsent: Iterable[tuple[int, int]] = ()) -> Batch:
        """Say that the batch's dispatch is over, where its program could not: the batch cannot finish before that.

        Of an ``incomplete`` one not all jobs were sent: it is cancelled, and ``then`` is never called. ``unsent`` are
        members that were counted and not sent, as `BatchDispatchError` names them. Workers send what becomes due.

        Raises:
            BatchNotFoundError: It is no longer in the store.
        """
        ranges = tuple(unsent)
        broken = incomplete or bool(ranges)
        end_dispatch(self._store.batches, DispatchEnd(self.id, True, broken, broken, ranges))
        return self._look()

    def retry(self) -> Batch:
        """Try the failed jobs again, and return the batch as it is then.

        Each starts at attempt 1, the oldest failure first as in Laravel, with the
        rest of its chain behind it. Where its record has been forgotten it stays
        failed; one that is still to be kept is waited for, two seconds at most.
        Jobs whose retry was broken off half a minute ago or more are sent first,
        and may run twice.
        """
        for record in to_retry(self._celery, self._look()):
            retry_failed_job(self._celery, record)
        return self._look()

    def delete(self) -> bool:
        """Remove the batch from the store; False when it was gone. Jobs that are still queued run uncounted."""
        return self._store.batches.delete(self.id)

    def fresh(self) -> Batch | None:
        """The batch as it stands now, or None when it is no longer in the store: one call, whatever its size."""
        record = self._store.batches.find(self.id)
        return None if record is None else Batch(record, self._app)

    def bound_to(self, app: Celery) -> Batch:
        """The same snapshot, speaking of this app's store. One that has travelled speaks of Celery's current app."""
        return Batch(self._record, app)

    # -- watching

    def wait(self, timeout: float | None = None, on_progress: Callable[[Batch], Any] | None = None) -> Batch:
        """Return the batch when it has finished.

        ``on_progress`` is called with every snapshot that differs from the one before.

        Raises:
            TimeoutError: It had not finished after ``timeout`` seconds.
            BatchNotFoundError: It is no longer in the store.
        """
        latest = self
        for latest in snapshots(self._look, timeout):
            if on_progress is not None:
                on_progress(latest)
        return latest

    def watch(self) -> Iterator[Batch]:
        """Yield a snapshot now and whenever something has changed; the last one is finished.

        Raises:
            BatchNotFoundError: It is no longer in the store.
        """
        return snapshots(self._look)

    def awatch(self) -> AsyncIterator[Batch]:
        """`watch`, for async code: the store is asked in a thread, and nothing blocks the loop."""
        return async_snapshots(self._look)

    def _look(self) -> Batch:
        batch = self.fresh()
        if batch is None:
            raise BatchNotFoundError(self.id)
        return batch

    @property
    def _celery(self) -> Celery:
        return self._app if self._app is not None else current_app._get_current_object()  # noqa: SLF001  Celery's own way

    @property
    def _store(self) -> Store:
        return store_of(self._celery)

    # -- travelling

    def __json__(self) -> dict[str, Any]:
        return envelope(_KIND, batch_to_data(self._record))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _from_data, (batch_to_data(self._record),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Batch) and self._record == other._record

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled else "finished" if self.finished else "pending"
        counts = f"{self.processed_jobs} of {self.total_jobs} processed, {self.failed_jobs} failed"
        return f"<Batch {self.name or self.id}: {counts}, {state}>"


def register_batches() -> None:
    """Teach kombu's JSON to read a batch among a job's arguments."""
    register_decoder(_KIND, Batch, _from_data)


def _from_data(data: Mapping[str, Any]) -> Batch:
    """Make a batch of what came with a message.

    Raises:
        ValueError: It is none. It is refused here, with its message, rather
            than where the worker hands it on to a process of its pool.
    """
    try:
        record = batch_from_data(data)
        batch_to_data(record)
    except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{data!r} is no batch: {error!r}") from error
    return Batch(record)
