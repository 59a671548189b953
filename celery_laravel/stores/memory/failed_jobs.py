"""Failed jobs in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_laravel import clock

if TYPE_CHECKING:
    import threading
    from datetime import datetime, timedelta

    from celery_laravel.stores.records import FailedJob


class MemoryFailedJobStore:
    """A `FailedJobStore` in a dictionary, which keeps the order of arrival."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._jobs: dict[str, FailedJob] = {}
        self._owners: dict[str, str] = {}

    def record(self, job: FailedJob) -> bool:
        payload = json.loads(json.dumps(job.payload))  # refuses what a real store would
        kept = replace(job, payload=payload, claimed_until=None)
        with self._lock:
            if job.id in self._jobs and job.id not in self._owners:
                return False
            self._remove(job.id)  # and with it its place in the order of arrival
            self._jobs[job.id] = kept
            return True

    def claim(self, job_id: str, *, owner: str, lease: timedelta) -> FailedJob | None:
        with self._lock:
            job, now = self._jobs.get(job_id), clock.as_datetime(clock.now())
            if job is None or (_is_claimed(job, now) and self._owners[job_id] != owner):
                return None
            self._owners[job_id] = owner
            claimed = self._jobs[job_id] = replace(job, claimed_until=now + lease)
            return claimed

    def release(self, job_id: str, *, owner: str) -> bool:
        with self._lock:
            if self._owners.get(job_id) != owner:
                return False
            self._jobs[job_id] = replace(self._jobs[job_id], claimed_until=clock.as_datetime(clock.now()))
            return True

    def interrupted(self, batch_id: str) -> list[FailedJob]:
        with self._lock:
            now = clock.as_datetime(clock.now())
            claimed = [self._jobs[job_id] for job_id in self._owners]
            found = [job for job in claimed if job.batch_id == batch_id and not _is_claimed(job, now)]
        return sorted(found, key=lambda job: job.failed_at)

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

    def forget(self, job_id: str, *, owner: str | None = None) -> bool:
        with self._lock:
            return (owner is None or self._owners.get(job_id) == owner) and self._remove(job_id)

    def flush(self, *, before: datetime | None = None) -> int:
        with self._lock:
            gone = [job.id for job in self._jobs.values() if before is None or job.failed_at < before]
            for job_id in gone:
                self._remove(job_id)
            return len(gone)

    def _remove(self, job_id: str) -> bool:
        self._owners.pop(job_id, None)
        return self._jobs.pop(job_id, None) is not None


def _is_claimed(job: FailedJob, now: datetime) -> bool:
    return job.claimed_until is not None and job.claimed_until > now
