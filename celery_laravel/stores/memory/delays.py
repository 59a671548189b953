"""Delayed jobs in memory."""

from __future__ import annotations

from dataclasses import replace
from heapq import nsmallest
from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.stores.records import DelayRecord, refuse_targets

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence
    from datetime import timedelta

    from celery_laravel.stores.records import NewDelay


class MemoryDelayStore:
    """A `DelayStore` in a dictionary."""

    server = None

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._records: dict[str, DelayRecord] = {}
        self._leaves: dict[str, float] = {}
        self._claimed: set[str] = set()

    def park(self, delays: Sequence[NewDelay]) -> None:
        refuse_targets(delays)
        with self._lock:
            now = clock.now()
            for delay in delays:
                self._records.setdefault(delay.entry, _record(delay, now))
                self._leaves.setdefault(delay.entry, now + delay.delay.total_seconds())

    def move(self, *, limit: int) -> int:
        return 0

    def claim(self, *, limit: int, lease: timedelta) -> list[DelayRecord]:
        with self._lock:
            now = clock.now()
            due = nsmallest(limit, ((leaves, entry) for entry, leaves in self._leaves.items() if leaves <= now))
            for _, entry in due:
                self._leaves[entry] = now + lease.total_seconds()
                self._claimed.add(entry)
            return [self._records[entry] for _, entry in due]

    def remove(self, entries: Sequence[str]) -> int:
        with self._lock:
            for entry in entries:
                self._leaves.pop(entry, None)
                self._claimed.discard(entry)
            return sum(self._records.pop(entry, None) is not None for entry in set(entries))

    def revoke(self, entry: str, message: str) -> bool:
        with self._lock:
            record = self._records.get(entry)
            if record is not None and not record.is_revoked:
                self._records[entry] = replace(record, message=message, is_revoked=True)
                if entry not in self._claimed:
                    self._leaves[entry] = min(self._leaves[entry], clock.now())
            return record is not None

    def find(self, job_id: str) -> list[DelayRecord]:
        with self._lock:
            return sorted((record for record in self._records.values() if record.job_id == job_id), key=_order)

    def all(self, *, queue: str | None = None, limit: int | None = None) -> list[DelayRecord]:
        with self._lock:
            return sorted(self._of(queue), key=_order)[:limit]

    def count(self, *, queue: str | None = None) -> int:
        with self._lock:
            return sum(1 for _ in self._of(queue))

    def _of(self, queue: str | None) -> Iterator[DelayRecord]:
        return (record for record in self._records.values() if queue is None or record.queue == queue)


def _order(record: DelayRecord) -> tuple[float, str]:
    return record.due_at.timestamp(), record.entry


def _record(delay: NewDelay, now: float) -> DelayRecord:
    parked_at = clock.as_datetime(now)
    return DelayRecord(
        entry=delay.entry,
        job_id=delay.job_id,
        task=delay.task,
        queue=delay.queue,
        message=delay.message,
        target=None,
        due_at=parked_at + delay.delay,
        parked_at=parked_at,
        is_revoked=False,
    )
