"""Limits in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.stores.records import LimitAnswer, Slot, WindowState

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from celery_laravel.stores.records import Window


@dataclass
class _Grid:
    """One key's windows: where they begin, what each has counted, and whose start is kept in which."""

    anchor: float
    seconds: float
    counts: dict[int, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)

    def index_at(self, instant: float) -> int:
        return max(0, int((instant - self.anchor) // self.seconds))

    def start_of(self, index: int) -> float:
        return self.anchor + index * self.seconds

    def first_with_room(self, instant: float, limit: int) -> float:
        """The first instant, not before the given one, whose window has room."""
        index = self.index_at(instant)
        if self.counts.get(index, 0) < limit:
            return instant
        while self.counts.get(index, 0) >= limit:
            index += 1
        return self.start_of(index)

    def count(self, instant: float) -> Slot:
        index = self.index_at(instant)
        self.counts[index] = self.counts.get(index, 0) + 1
        return Slot("", self.start_of(index))

    def uncount(self, index: int) -> None:
        left = self.counts.get(index, 0) - 1
        if left > 0:
            self.counts[index] = left
        else:
            self.counts.pop(index, None)

    def forget_before(self, now: float) -> None:
        current = self.index_at(now)
        for index in [index for index in self.counts if index < current]:
            del self.counts[index]
        for caller in [caller for caller, index in self.kept.items() if index < current]:
            del self.kept[caller]


class MemoryLimitStore:
    """A `LimitStore` in a dictionary."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._grids: dict[tuple[str, str], _Grid] = {}

    def take(self, name: str, windows: Sequence[Window], *, caller: str | None = None) -> LimitAnswer:
        with self._lock:
            now = clock.now()
            grids = {window.key: self._grid(name, window.key, window.seconds, now) for window in windows}
            if caller is not None:
                kept = {key: grid.kept[caller] for key, grid in grids.items() if caller in grid.kept}
                if len(kept) == len(grids):
                    starts_at = max(grids[key].start_of(index) for key, index in kept.items())
                    slots = tuple(Slot(key, grids[key].start_of(index)) for key, index in kept.items())
                    if starts_at > now:
                        return LimitAnswer(False, starts_at - now, slots)
                    for key in kept:
                        del grids[key].kept[caller]
                    return LimitAnswer(True, 0.0, slots)
                for key, index in kept.items():
                    del grids[key].kept[caller]
                    grids[key].uncount(index)
            instant = _first_with_room(grids, windows, now)
            if instant > now and caller is None:
                return LimitAnswer(False, instant - now)
            slots = tuple(Slot(key, grid.count(instant).window_start) for key, grid in grids.items())
            if instant <= now:
                return LimitAnswer(True, 0.0, slots)
            for grid in grids.values():
                assert caller is not None
                grid.kept[caller] = grid.index_at(instant)
            return LimitAnswer(False, instant - now, slots)

    def give_back(self, name: str, slots: Sequence[Slot]) -> None:
        with self._lock:
            now = clock.now()
            for slot in slots:
                grid = self._current(name, slot.key, now)
                if grid is not None:
                    index = round((slot.window_start - grid.anchor) / grid.seconds)
                    if abs(grid.start_of(index) - slot.window_start) < _SAME:
                        grid.uncount(index)

    def cancel(self, name: str, keys: Sequence[str], *, caller: str) -> None:
        with self._lock:
            now = clock.now()
            for key in keys:
                grid = self._current(name, key, now)
                if grid is not None and caller in grid.kept:
                    grid.uncount(grid.kept.pop(caller))

    def hit(self, name: str, key: str, *, seconds: float) -> int:
        with self._lock:
            now = clock.now()
            grid = self._grid(name, key, seconds, now)
            grid.count(now)
            return grid.counts[grid.index_at(now)]

    def look(self, name: str, key: str) -> WindowState:
        with self._lock:
            now = clock.now()
            grid = self._current(name, key, now)
            if grid is None:
                return WindowState()
            index = grid.index_at(now)
            return WindowState(grid.counts.get(index, 0), grid.start_of(index + 1) - now)

    def clear(self, name: str, key: str) -> bool:
        with self._lock:
            known = self._current(name, key, clock.now()) is not None
            self._grids.pop((name, key), None)
            return known

    def prune(self) -> int:
        with self._lock:
            now = clock.now()
            before = len(self._grids)
            for name, key in list(self._grids):
                self._current(name, key, now)
            return before - len(self._grids)

    def _current(self, name: str, key: str, now: float) -> _Grid | None:
        """A key's windows, or None when nothing is counted from now on."""
        grid = self._grids.get((name, key))
        if grid is None:
            return None
        grid.forget_before(now)
        if not grid.counts:
            del self._grids[name, key]
            return None
        return grid

    def _grid(self, name: str, key: str, seconds: float, now: float) -> _Grid:
        grid = self._current(name, key, now)
        if grid is None or grid.seconds != seconds:
            grid = _Grid(now, seconds)
        self._grids[name, key] = grid
        return grid


_SAME = 1e-3
"""Seconds within which two instants are the same start of a window."""


def _first_with_room(grids: dict[str, _Grid], windows: Sequence[Window], now: float) -> float:
    """The first instant at which every window has room."""
    instant, before = now, None
    while instant != before:
        before = instant
        for window in windows:
            instant = grids[window.key].first_with_room(instant, window.limit)
    return instant
