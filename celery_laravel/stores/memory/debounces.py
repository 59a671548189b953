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
class _Period:
    opened: float
    expires: float
    reserved: int = 0
    newest: int = 0
    job_id: str = ""
    started: set[int] = field(default_factory=set)


class MemoryDebounceStore:
    """A `DebounceStore` in a dictionary."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._keys: dict[str, dict[int, _Period]] = {}

    def reserve(self, key: str, *, wait: timedelta, max_wait: timedelta | None, keep: timedelta) -> Place:
        with self._lock:
            now = clock.now()
            periods = self._periods(key, now)
            number = max(periods, default=0)
            longest = float("inf") if max_wait is None else max_wait.total_seconds()
            period = periods.get(number)
            if period is None or period.started or now >= period.opened + longest:
                number += 1
                period = self._keys.setdefault(key, periods)[number] = _Period(now, now)
            period.reserved += 1
            period.expires = now + keep.total_seconds()
            return Place(number, period.reserved, min(wait.total_seconds(), period.opened + longest - now))

    def confirm(self, key: str, place: Place, *, job_id: str, keep: timedelta) -> None:
        with self._lock:
            now = clock.now()
            period = self._periods(key, now).get(place.period)
            if period is not None and place.number >= period.newest:
                period.newest, period.job_id = place.number, job_id
                period.expires = now + keep.total_seconds()

    def start(self, key: str, place: Place) -> str | None:
        with self._lock:
            period = self._periods(key, clock.now()).get(place.period)
            if period is None or place.number in period.started:
                return None
            if period.newest > place.number:
                return period.job_id
            if period.newest < place.number:
                period.newest, period.job_id = place.number, ""
            period.started.add(place.number)
            return None

    def prune(self) -> int:
        with self._lock:
            now, before = clock.now(), len(self._keys)
            for key in list(self._keys):
                self._periods(key, now)
            return before - len(self._keys)

    def _periods(self, key: str, now: float) -> dict[int, _Period]:
        """What is known of a key's periods; one with none is forgotten."""
        periods = self._keys.get(key, {})
        for number in [number for number, period in periods.items() if period.expires <= now]:
            del periods[number]
        if not periods:
            self._keys.pop(key, None)
        return periods
