"""Attempts in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.stores.records import AttemptStart, StartStatus

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from datetime import timedelta

    from celery_laravel.stores.memory.locks import MemoryLockStore
    from celery_laravel.stores.records import AttemptEnd, LockRequest


@dataclass
class _Entry:
    turn: int
    attempts: int
    exceptions: int
    state: str  # open, released or over
    owner: str
    until: float  # end of the lease while open; when the next turn is due while released
    expires: float
    keep: float = 0.0


class MemoryAttemptStore:
    """An `AttemptStore` in a dictionary."""

    def __init__(self, lock: threading.RLock, locks: MemoryLockStore) -> None:
        self._lock = lock
        self._locks = locks
        self._entries: dict[str, _Entry] = {}

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
        lock: LockRequest | None = None,
    ) -> AttemptStart:
        with self._lock:
            now = clock.now()
            entry = self._entry(job_id, now)
            started = attempts
            if entry is not None and entry.turn > turn:
                return AttemptStart(StartStatus.OVER)
            if entry is not None and entry.turn == turn:
                if entry.state == "over":
                    return AttemptStart(StartStatus.OVER)
                if entry.state == "released":
                    return AttemptStart(
                        StartStatus.RELEASED, entry.attempts, entry.exceptions, max(0.0, entry.until - now)
                    )
                if entry.until > now and entry.owner != owner:
                    return AttemptStart(StartStatus.RUNNING, delay=entry.until - now)
                started = max(started, entry.attempts)
            if lock is not None:
                answer = self._locks.acquire(lock)
                if not answer.acquired:
                    return AttemptStart(StartStatus.LOCKED, delay=answer.expires_in or 0.0, holder=answer.owner)
            until, kept = now + lease.total_seconds(), keep.total_seconds()
            expires = max(until, now + kept)
            self._entries[job_id] = _Entry(turn, started + 1, exceptions, "open", owner, until, expires, kept)
            return AttemptStart(StartStatus.STARTED, started + 1, exceptions)

    def end(self, end: AttemptEnd, *, keep: timedelta) -> bool:
        with self._lock:
            now = clock.now()
            entry = self._entry(end.job_id, now)
            if entry is not None and (entry.turn > end.turn or (entry.turn == end.turn and entry.state != "open")):
                return False
            state, due = ("over", now) if end.is_final else ("released", now + end.delay)
            expires = due + keep.total_seconds()
            self._entries[end.job_id] = _Entry(end.turn, end.attempts, end.exceptions, state, "", due, expires)
            return True

    def renew(self, owners: Mapping[str, str], *, lease: timedelta) -> frozenset[str]:
        with self._lock:
            now = clock.now()
            held = set()
            for job_id, owner in owners.items():
                entry = self._entry(job_id, now)
                if entry is not None and entry.state == "open" and entry.owner == owner:
                    entry.until = now + lease.total_seconds()
                    entry.expires = max(entry.until, now + entry.keep)
                    held.add(job_id)
            return frozenset(held)

    def forestall(self, job_id: str, *, keep: timedelta) -> bool:
        with self._lock:
            now = clock.now()
            entry = self._entry(job_id, now)
            if entry is None:
                self._entries[job_id] = _Entry(0, 0, 0, "over", "", now, now + keep.total_seconds())
                return True
            return (entry.turn, entry.attempts, entry.state) == (0, 0, "over")

    def forget(self, job_id: str) -> bool:
        with self._lock:
            return self._entries.pop(job_id, None) is not None

    def prune(self) -> int:
        with self._lock:
            now = clock.now()
            gone = [job_id for job_id, entry in self._entries.items() if entry.expires <= now]
            for job_id in gone:
                del self._entries[job_id]
            return len(gone)

    def _entry(self, job_id: str, now: float) -> _Entry | None:
        entry = self._entries.get(job_id)
        if entry is not None and entry.expires <= now:
            del self._entries[job_id]
            return None
        return entry
