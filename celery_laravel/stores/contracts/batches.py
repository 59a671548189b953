"""What a store does for batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from celery_laravel.stores.records import BatchChange, BatchRecord, Callback, Mark, MemberEnd, NewBatch


class BatchStore(Protocol):
    """Batches and their members.

    A member is (batch id, index). Every change of a member's state is made
    once, however often it is asked for, and the counts move with it. A batch
    *finishes* when its dispatch is closed and no member is pending. The step
    that brings something about returns the callbacks that are now due, in this
    order; the kinds that say so become due once in the batch's life:

    - ``progress`` with each member that succeeds;
    - ``failure`` with each member that fails, if the batch allows failures;
    - ``catch`` with the batch's first failure, once;
    - ``then`` when it finishes and every member succeeded, once;
    - ``next`` when it finishes, once, and if it has failed for want of allowed
      failures, not before it finishes with every member succeeded;
    - ``finally`` when it finishes, once.

    ``before`` is due as soon as the batch is there.

    Unless the batch allows failures, its first failure also cancels it.
    """

    def create(self, batch: NewBatch) -> BatchRecord:
        """Create a batch, open and without members, whose ``before`` callbacks are due.

        An id that exists changes nothing: what is there is returned.
        """

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

    def end_members(self, batch_id: str, indices: Sequence[int]) -> BatchChange | None:
        """Count members that succeeded, all in one step: what `end_member` does for one of them.

        Those that have ended before, whatever their state, are left alone, as
        are indices that no member has. ``changed`` is False when that is all of
        them; None when the batch is not known.
        """

    def ended(self, batch_id: str, indices: Sequence[int]) -> frozenset[int]:
        """Which of these members have ended, whatever their state; none of them when the batch is not known."""

    def revive(self, batch_id: str, index: int, *, job_id: str, skips: Sequence[int] = ()) -> BatchChange | None:
        """Make a failed member pending again, and those it kept from running: it is about to be tried again.

        The batch is then no longer finished; cancelled it stays, and its first
        exception is kept. ``changed`` is False when the member had not failed
        as ``job_id``; None when the batch is not known.
        """

    def cancel(self, batch_id: str) -> BatchChange | None:
        """Cancel a batch; ``changed`` tells whether this call did. None when it is not known."""

    def find(self, batch_id: str) -> BatchRecord | None:
        """The batch as it stands, or None; in one exchange with the server, whatever its size."""

    def failed_ids(self, batch_id: str) -> list[str]:
        """The ids of all its failed jobs, in no particular order; none when the batch is not known."""

    def all(self, *, limit: int = 50, before: str | None = None) -> list[BatchRecord]:
        """Batches, newest first; with ``before``, only those older than that batch, and none when it is not known.

        An unknown ``before`` ends a walk through the pages; it does not start it again.
        """

    def delete(self, batch_id: str) -> bool:
        """Remove a batch and all about its members; True when there was one.

        Members that still run are no longer counted.
        """

    def mark_sent(self, batch_id: str, callbacks: Sequence[Mark]) -> None:
        """Clear the due marks of callbacks that have been sent."""

    def due(self, *, older_than: timedelta) -> list[tuple[BatchRecord, Callback]]:
        """Callbacks that have been due for at least so long and are not marked as sent: whoever was to send them died.

        The longest due come first. A back end may return part of very many;
        the rest comes once these are marked.
        """

    def prune(
        self,
        *,
        finished_before: datetime | None = None,
        created_before: datetime | None = None,
        cancelled_before: datetime | None = None,
    ) -> int:
        """Remove old batches; return how many.

        These are the ones that finished before ``finished_before``, the unfinished
        ones that were created before ``created_before``, and the cancelled ones,
        finished or not, that were created before ``cancelled_before``. Each batch
        is removed in one step; all of them need not be.
        """
