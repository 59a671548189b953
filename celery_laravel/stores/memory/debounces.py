"""Debounced jobs in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.stores.records import Place

if TYPE_CHECKING:
    import threading
    from datetime import timedelta


@dataclass
class _Key:
    opened: float
    expires: float
    period: int = 1
    reserved: int = 0
    is_over: bool = False
    newest: dict[int, tuple[int, str]] = field(default_factory=dict)


class MemoryDebounceStore:
    """A `DebounceStore` in a dictionary."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._keys: dict[str, _Key] = {}

    def reserve(self, key: str, *, wait: timedelta, max_wait: timedelta | None, keep: timedelta) -> Place:
        with self._lock:
            now = clock.now()
            entry = self._entry(key, now)
            longest = float("inf") if max_wait is None else max_wait.total_seconds()
            if entry is None:
                entry = self._keys[key] = _Key(now, now)
            elif entry.is_over or now >= entry.opened + longest:
                entry.period, entry.reserved, entry.opened, entry.is_over = entry.period + 1, 0, now, False
            entry.reserved += 1
            entry.expires = now + keep.total_seconds()
            delay = min(wait.total_seconds(), entry.opened + longest - now)
            return Place(entry.period, entry.reserved, delay)

    def confirm(self, key: str, place: Place, *, job_id: str, keep: timedelta) -> None:
        with self._lock:
            now = clock.now()
            entry = self._entry(key, now)
            if entry is not None and place.number > entry.newest.get(place.period, (0, ""))[0]:
                entry.newest[place.period] = (place.number, job_id)
                entry.expires = now + keep.total_seconds()

    def start(self, key: str, place: Place) -> str | None:
        with self._lock:
            entry = self._entry(key, clock.now())
            if entry is None:
                return None
            number, job_id = entry.newest.get(place.period, (0, ""))
            if number > place.number:
                return job_id
            if place.period == entry.period:
                entry.is_over = True
            return None

    def prune(self) -> int:
        with self._lock:
            now, before = clock.now(), len(self._keys)
            for key in list(self._keys):
                self._entry(key, now)
            return before - len(self._keys)

    def _entry(self, key: str, now: float) -> _Key | None:
        entry = self._keys.get(key)
        if entry is not None and entry.expires <= now:
            del self._keys[key]
            return None
        return entry
