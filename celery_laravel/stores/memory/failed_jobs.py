"""Failed jobs in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from datetime import datetime

    from celery_laravel.stores.records import FailedJob


class MemoryFailedJobStore:
    """A `FailedJobStore` in a dictionary, which keeps the order of arrival."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._jobs: dict[str, FailedJob] = {}

    def record(self, job: FailedJob) -> bool:
        kept = replace(job, payload=json.loads(json.dumps(job.payload)))  # refuses what a real store would
        with self._lock:
            if job.id in self._jobs:
                return False
            self._jobs[job.id] = kept
            return True

    def find(self, job_id: str) -> FailedJob | None:
        with self._lock:
            return self._jobs.get(job_id)

    def all(self, *, queue: str | None = None, limit: int | None = None) -> list[FailedJob]:
        with self._lock:
            found = [job for job in reversed(self._jobs.values()) if queue is None or job.queue == queue]
        found.sort(key=lambda job: job.failed_at, reverse=True)  # stable: of one instant the later arrival stays first
        return found if limit is None else found[:limit]

    def count(self, *, queue: str | None = None) -> int:
        with self._lock:
            return sum(queue is None or job.queue == queue for job in self._jobs.values())

    def forget(self, job_id: str) -> bool:
        with self._lock:
            return self._jobs.pop(job_id, None) is not None

    def flush(self, *, before: datetime | None = None) -> int:
        with self._lock:
            gone = [job.id for job in self._jobs.values() if before is None or job.failed_at < before]
            for job_id in gone:
                del self._jobs[job_id]
            return len(gone)
