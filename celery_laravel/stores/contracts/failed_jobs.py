"""What a store does for failed jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from celery_laravel.stores.records import FailedJob


class FailedJobStore(Protocol):
    """Records of jobs that failed for good, by job id.

    Who is to send a job again claims its record, sends the job, and forgets
    the record as its owner, in that order: a record is never gone before its
    job is on its way. Who dies in between leaves a record that can be claimed
    again once the lease has run out; its job may have been sent.

    A claim hides nothing. A claimed record is found, listed and counted with
    ``claimed_until``, and anybody may forget or flush it; only another claim
    is refused.
    """

    def record(self, job: FailedJob) -> bool:
        """Keep a failed job; False, and nothing changed, when that id is there already.

        A record on which somebody has laid a claim, whether or not its lease
        lasts, gives way: the job may have been sent since, and this is how it
        ended. The new record is claimed by nobody, and the answer is True.
        ``claimed_until`` is not kept.
        """

    def claim(self, job_id: str, *, owner: str, lease: timedelta) -> FailedJob | None:
        """Take a record for ``owner``, so that for ``lease``, by the store's clock, nobody else gets it.

        None when there is no record of that id, or another's claim lasts. Of
        two callers at once one gets it. An owner that claims again gets it
        again, and its lease begins anew: the call may be repeated.
        """

    def release(self, job_id: str, *, owner: str) -> bool:
        """End the lease of what ``owner`` has claimed; False when the record is gone or another's.

        The record remembers that it was claimed (`record`, `interrupted`):
        whether the job was sent is not always known to whoever gives up.
        """

    def interrupted(self, batch_id: str) -> list[FailedJob]:
        """The records of a batch's jobs that somebody has claimed and not forgotten, oldest first.

        Those whose lease lasts are left out. The batch may hold these members
        for pending, so that they are not among its failed jobs.
        """

    def find(self, job_id: str) -> FailedJob | None:
        """One record, or None."""

    def all(self, *, queue: str | None = None, limit: int | None = None) -> list[FailedJob]:
        """Records, newest first; of the same instant, the later arrival first."""

    def count(self, *, queue: str | None = None) -> int:
        """How many records there are."""

    def forget(self, job_id: str, *, owner: str | None = None) -> bool:
        """Remove one record; True when this call removed it, so of two callers one may act on it.

        With ``owner``, only if that is the last who claimed it: a record that
        another has claimed since, or that is of a newer failure, stays.
        """

    def flush(self, *, before: datetime | None = None) -> int:
        """Remove all records, or those that failed before an instant; return how many.

        Each record is removed in one step; all of them need not be.
        """
