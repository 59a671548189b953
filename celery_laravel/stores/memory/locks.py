"""Locks in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.stores.records import LockAnswer, LockRecord

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from celery_laravel.stores.records import LockRequest


@dataclass
class _Hold:
    kind: str
    task: str
    taken: float
    expires: float | None
    is_lease: bool
    payload: str | None = None


class MemoryLockStore:
    """A `LockStore` in a dictionary."""

    server = None

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._locks: dict[str, dict[str, _Hold]] = {}

    def acquire(self, request: LockRequest) -> LockAnswer:
        with self._lock:
            now = clock.now()
            holds = self._holds(request.key, now)
            mine = holds.get(request.owner)
            if mine is None and len(holds) >= request.slots:
                owner, hold = min(holds.items(), key=lambda item: _end(item[1]))
                if request.payload is not None:
                    hold.payload = request.payload
                return LockAnswer(False, owner, None if hold.expires is None else hold.expires - now)
            seconds = None if request.ttl is None else request.ttl.total_seconds()
            taken, payload = (now, None) if mine is None else (mine.taken, mine.payload)
            expires = None if seconds is None else now + seconds
            hold = _Hold(request.kind, request.task, taken, expires, request.is_lease, payload)
            self._locks.setdefault(request.key, holds)[request.owner] = hold
            return LockAnswer(True, request.owner, seconds, was_held=mine is not None)

    def acquire_and_push(self, request: LockRequest, *, target: str, message: str) -> LockAnswer:
        raise NotImplementedError("A store in memory has no lists of a broker's.")

    def confirm(self, key: str, *, owner: str, ttl: timedelta | None) -> None:
        with self._lock:
            now = clock.now()
            hold = self._holds(key, now).get(owner)
            if hold is not None and not hold.is_lease:
                hold.expires = None if ttl is None else now + ttl.total_seconds()

    def release(self, keys: Sequence[str], *, owner: str) -> Mapping[str, str | None]:
        with self._lock:
            now = clock.now()
            freed: dict[str, str | None] = {}
            for key in keys:
                holds = self._holds(key, now)
                if owner in holds:
                    freed[key] = holds.pop(owner).payload
                    self._drop_if_free(key)
            return freed

    def set_aside(self, key: str, to: str, *, owner: str, ttl: timedelta) -> str | None:
        with self._lock:
            now = clock.now()
            freed = self._holds(key, now).pop(owner, None)
            self._drop_if_free(key)
            if freed is not None and freed.payload is not None:
                expires = now + ttl.total_seconds()
                kept = _Hold(freed.kind, freed.task, now, expires, False, freed.payload)
                self._locks.setdefault(to, {})[owner] = kept
            found = self._holds(to, now).get(owner)
            return None if found is None else found.payload

    def release_soon(self, keys: Sequence[str], *, owner: str) -> None:
        self.release(keys, owner=owner)

    def release_all(self, owner: str) -> int:
        with self._lock:
            keys = [key for key, holds in self._locks.items() if owner in holds]
            return len(self.release(keys, owner=owner))

    def renew(self, owners: Sequence[str], *, ttl: timedelta) -> int:
        with self._lock:
            now = clock.now()
            renewed = 0
            for key in self._locks:
                holds = self._holds(key, now)
                for owner in holds.keys() & set(owners):
                    hold = holds[owner]
                    if hold.is_lease and hold.expires is not None:
                        hold.expires = max(hold.expires, now + ttl.total_seconds())
                        renewed += 1
            return renewed

    def find(self, key: str) -> list[LockRecord]:
        with self._lock:
            return _oldest_first([_record(key, *item) for item in self._holds(key, clock.now()).items()])

    def all(self, *, limit: int | None = None) -> list[LockRecord]:
        with self._lock:
            now = clock.now()
            records = [_record(key, *item) for key in self._locks for item in self._holds(key, now).items()]
            return _oldest_first(records)[:limit]

    def free(self, key: str) -> int:
        with self._lock:
            count = len(self._holds(key, clock.now()))
            self._locks.pop(key, None)
            return count

    def prune(self) -> int:
        with self._lock:
            now = clock.now()
            count = sum(map(len, self._locks.values()))
            for key in list(self._locks):
                self._holds(key, now)
                self._drop_if_free(key)
            return count - sum(map(len, self._locks.values()))

    def _holds(self, key: str, now: float) -> dict[str, _Hold]:
        """The holds on a lock that have not expired; the others are forgotten."""
        holds = self._locks.get(key, {})
        for owner in [owner for owner, hold in holds.items() if _end(hold) <= now]:
            del holds[owner]
        return holds

    def _drop_if_free(self, key: str) -> None:
        if not self._locks.get(key):
            self._locks.pop(key, None)


def _end(hold: _Hold) -> float:
    return float("inf") if hold.expires is None else hold.expires


def _record(key: str, owner: str, hold: _Hold) -> LockRecord:
    expires = None if hold.expires is None else clock.as_datetime(hold.expires)
    return LockRecord(key, owner, hold.kind, hold.task, clock.as_datetime(hold.taken), expires, hold.is_lease)


def _oldest_first(records: list[LockRecord]) -> list[LockRecord]:
    return sorted(records, key=lambda record: record.taken_at)
