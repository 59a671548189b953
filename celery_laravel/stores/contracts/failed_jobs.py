"""What a store does for failed jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from celery_laravel.stores.records import FailedJob


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
