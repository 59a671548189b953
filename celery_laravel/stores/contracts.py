"""What a store can do, by capability; each method is one atomic step that returns what it changed.

Every method may raise `StoreUnavailableError` when the store does not answer;
the change may then have been made or not. Durations are `timedelta`, instants
aware `datetime`. A back end is done when it passes ``celery_laravel.testing.store_suite``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from celery_laravel.stores.records import (
        AttemptEnd,
        AttemptStart,
        BatchChange,
        BatchRecord,
        Callback,
        FailedJob,
        MemberEnd,
        NewBatch,
    )


class AttemptStore(Protocol):
    """How often each job has been started, so that a crash counts.

    A job goes through *turns*: turn 0 is its first message, and every time the
    job is put back (a release, a backoff, a retry) the next message carries the
    next turn, and how many attempts and exceptions lie behind it. The store
    remembers one entry a job: the turn it saw last, how many attempts were
    started, and how that turn ended. A message of an earlier turn is a copy of
    something that is over; a second start of the same turn means that the first
    one crashed.
    """

    def begin(
        self,
        job_id: str,
        *,
        turn: int,
        attempts: int,
        exceptions: int,
        owner: str,
        lease: timedelta,
        keep: timedelta,
    ) -> AttemptStart:
        """Start the next attempt of a job, or say why not.

        ``attempts`` and ``exceptions`` are those the message says lie behind
        it. With no entry, or one of an earlier turn, attempt ``attempts + 1``
        starts. With an entry of this turn still open, the earlier start
        crashed, and the attempt after that one starts, unless its lease has
        not run out and is held by another ``owner`` (RUNNING). The entry is
        then held by ``owner`` for ``lease``; zero means that no copy is ever
        kept waiting. Where this turn has ended with the job put back, nothing
        changes and the answer is RELEASED; where it has ended for good, or the
        entry is of a later turn, OVER.

        The entry is forgotten ``keep`` after the last change to it, and never
        while its lease lasts.
        """

    def end(self, end: AttemptEnd, *, keep: timedelta) -> bool:
        """End a turn; True when this call ended it.

        Of a final end a marker stays for ``keep``, so that a late copy of the
        message is recognised. Of any other the counts stay, for the delay and
        ``keep`` beyond it, so that the next message can be sent again should
        the worker die before it is out.
        Ending a turn that is over, or one the store does not know, changes
        nothing when a later turn is known, and otherwise leaves the same entry
        behind as the first time.
        """

    def renew(self, owners: Mapping[str, str], *, lease: timedelta) -> frozenset[str]:
        """Extend the leases of running attempts, given as job id to owner; return the ids that were still held.

        An id whose entry is gone, ended or held by another owner is left
        alone: the caller has lost it. A lease that has run out is held as long
        as nobody else has started the job. Renewing is a change: the entry is
        kept for what `begin` was given, counted from now.
        """

    def forget(self, job_id: str) -> bool:
        """Drop what is known of a job, so that it starts at attempt 1 again; True when something was known."""

    def prune(self) -> int:
        """Remove entries that are past their keeping time; return how many: 0 where they expire by themselves."""


class BatchStore(Protocol):
    """Batches and their members.

    A member is (batch id, index). Every change of a member's state is made
    once, however often it is asked for, and the counts move with it. A batch
    *finishes* when its dispatch is closed and no member is pending; the one
    step that brings this about returns the callbacks that are now due:

    - ``catch`` with the batch's first failure, once in its life;
    - ``then`` when it finishes and every member succeeded, once in its life;
    - ``finally`` when it finishes, once in its life.

    Unless the batch allows failures, its first failure also cancels it.
    """

    def create(self, batch: NewBatch) -> BatchRecord:
        """Create a batch, open and without members. An id that exists changes nothing: what is there is returned."""

    def add(self, batch_id: str, count: int) -> int:
        """Add ``count`` pending members; return the index of the first. Indices run from 0, without gaps.

        Raises:
            BatchNotFoundError: No such batch.
            BatchFinishedError: It has finished.
        """

    def close(self, batch_id: str) -> BatchChange:
        """Say that the dispatch is over, so that the batch may finish.

        An empty one, or one whose members have all ended, does so now.

        Raises:
            BatchNotFoundError: No such batch.
        """

    def end_member(self, end: MemberEnd) -> BatchChange | None:
        """Bring a pending member, and the members it ``skips``, to their end.

        ``changed`` is False when the member had ended before, whatever its
        state, and when no member has that index; skips are then left alone
        too. Of the skips only pending members change. Returns None when the
        batch is not known (deleted or pruned): there is nothing to count.
        """

    def revive(self, batch_id: str, index: int, *, job_id: str, skips: Sequence[int] = ()) -> BatchChange | None:
        """Make a failed member pending again, and those it kept from running: it is about to be tried again.

        The batch is then no longer finished; cancelled it stays, and its first
        exception is kept. ``changed`` is False when the member had not failed
        as ``job_id``; None when the batch is not known.
        """

    def cancel(self, batch_id: str) -> BatchChange | None:
        """Cancel a batch; ``changed`` tells whether this call did. None when it is not known."""

    def find(self, batch_id: str) -> BatchRecord | None:
        """The batch as it stands, or None."""

    def all(self, *, limit: int = 50, before: str | None = None) -> list[BatchRecord]:
        """Batches, newest first; with ``before``, only those older than that batch, and none when it is not known.

        An unknown ``before`` ends a walk through the pages; it does not start it again.
        """

    def delete(self, batch_id: str) -> bool:
        """Remove a batch and all about its members; True when there was one.

        Members that still run are no longer counted.
        """

    def mark_sent(self, batch_id: str, callbacks: Sequence[tuple[str, int]]) -> None:
        """Clear the due marks of callbacks, given as (kind, position), that have been sent."""

    def due(self, *, older_than: timedelta) -> list[tuple[BatchRecord, Callback]]:
        """Callbacks that have been due for at least so long and are not marked as sent: whoever was to send them died.

        The longest due come first. A back end may return part of very many;
        the rest comes once these are marked.
        """

    def prune(self, *, finished_before: datetime | None = None, created_before: datetime | None = None) -> int:
        """Remove batches that finished before an instant, and unfinished ones created before another; return how many.

        Each batch is removed in one step; all of them need not be.
        """


class FailedJobStore(Protocol):
    """Records of jobs that failed for good, by job id."""

    def record(self, job: FailedJob) -> bool:
        """Keep a failed job; False, and nothing changed, when that id is there already."""

    def find(self, job_id: str) -> FailedJob | None:
        """One record, or None."""

    def all(self, *, queue: str | None = None, limit: int | None = None) -> list[FailedJob]:
        """Records, newest first; of the same instant, the later arrival first."""

    def count(self, *, queue: str | None = None) -> int:
        """How many records there are."""

    def forget(self, job_id: str) -> bool:
        """Remove one record; True when this call removed it, so of two callers one may act on it."""

    def flush(self, *, before: datetime | None = None) -> int:
        """Remove all records, or those that failed before an instant; return how many.

        Each record is removed in one step; all of them need not be.
        """


class Store(Protocol):
    """One place where everything is kept, and the steps that join capabilities in one call."""

    @property
    def url(self) -> str:
        """Where the store is, without its password."""

    @property
    def attempts(self) -> AttemptStore:
        """The attempts of jobs."""

    @property
    def batches(self) -> BatchStore:
        """Batches and their members."""

    @property
    def failed_jobs(self) -> FailedJobStore:
        """Jobs that failed for good."""

    def settle(self, *, member: MemberEnd | None, attempt: AttemptEnd | None, keep: timedelta) -> BatchChange | None:
        """Count a batch's member and end a turn, in one round trip and in that order.

        The order matters: were the turn ended first and the worker to die in
        between, the copy of the message that comes again would be dropped and
        the member never counted. Each part is atomic and may be repeated.
        """

    def ping(self) -> None:
        """Return when the store answers."""

    def close(self) -> None:
        """Give back connections. The store may be used again; it connects anew."""
