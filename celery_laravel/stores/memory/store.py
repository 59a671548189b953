"""The store in memory: all capabilities behind one lock."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.stores.memory.attempts import MemoryAttemptStore
from celery_laravel.stores.memory.batches import MemoryBatchStore
from celery_laravel.stores.memory.debounces import MemoryDebounceStore
from celery_laravel.stores.memory.delays import MemoryDelayStore
from celery_laravel.stores.memory.failed_jobs import MemoryFailedJobStore
from celery_laravel.stores.memory.limits import MemoryLimitStore
from celery_laravel.stores.memory.locks import MemoryLockStore
from celery_laravel.stores.records import StoreCondition

if TYPE_CHECKING:
    from datetime import timedelta

    from celery_laravel.stores.records import AttemptEnd, BatchChange, MemberEnd


class MemoryStore:
    """A `Store` in this process's memory; what it holds is gone with the process."""

    def __init__(self, url: str = "memory://", prefix: str = "laravel") -> None:
        self.url = url
        lock = threading.RLock()
        self.locks = MemoryLockStore(lock)
        self.limits = MemoryLimitStore(lock)
        self.debounces = MemoryDebounceStore(lock)
        self.delays = MemoryDelayStore(lock)
        self.attempts = MemoryAttemptStore(lock, self.locks)
        self.batches = MemoryBatchStore(lock)
        self.failed_jobs = MemoryFailedJobStore(lock)

    def settle(self, *, member: MemberEnd | None, attempt: AttemptEnd | None, keep: timedelta) -> BatchChange | None:
        change = self.batches.end_member(member) if member is not None else None
        if attempt is not None:
            self.attempts.end(attempt, keep=keep)
        return change

    def condition(self) -> StoreCondition:
        return StoreCondition(clock.as_datetime(clock.now()), is_private=True)

    def ping(self) -> None:
        """Return at once: this process is here."""

    def close(self) -> None:
        """Do nothing: there are no connections."""
