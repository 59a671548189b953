"""Limits in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.stores.instants import SECOND
from celery_laravel.stores.memory.windows import Grid
from celery_laravel.stores.records import LimitAnswer, WindowState, limits_by_key
from celery_laravel.stores.starts import come_anew, come_now, slots_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence

    from celery_laravel.stores.records import Slot, Window


class MemoryLimitStore:
    """A `LimitStore` in a dictionary."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._grids: dict[tuple[str, str], Grid] = {}

    def take(
        self, name: str, windows: Sequence[Window], *, caller: str | None = None, is_overdue: bool = False
    ) -> LimitAnswer:
        limits = limits_by_key(name, windows)
        if not windows:
            return LimitAnswer(True)
        with self._lock:
            now = _now()
            grids = {window.key: self._grid(name, window.key, window.seconds, now) for window in windows}
            answer = None if caller is None else _come_again(grids, limits, caller, now, is_overdue)
            if answer is None:
                answer = come_anew(grids, limits, caller, now)
            for key in limits:
                self._current(name, key, now)  # which forgets it if nothing was counted
            return answer

    def give_back(self, name: str, slots: Sequence[Slot]) -> None:
        with self._lock:
            now = _now()
            for slot in slots:
                grid = self._current(name, slot.key, now)
                if grid is not None:
                    index, rest = divmod(round(slot.window_start * SECOND) - grid.anchor, grid.length)
                    if rest == 0:
                        grid.uncount(index)

    def cancel(self, name: str, keys: Sequence[str], *, caller: str) -> None:
        with self._lock:
            now = _now()
            for key in keys:
                grid = self._current(name, key, now)
                if grid is not None and caller in grid.kept:
                    grid.drop_kept(caller)

    def hit(self, name: str, key: str, *, seconds: float) -> int:
        with self._lock:
            now = _now()
            grid = self._grid(name, key, seconds, now)
            return grid.count(grid.index_at(now))

    def look(self, name: str, key: str) -> WindowState:
        with self._lock:
            now = _now()
            grid = self._current(name, key, now)
            if grid is None:
                return WindowState()
            index = grid.index_at(now)
            return WindowState(grid.count_at(index), (grid.start_of(index + 1) - now) / SECOND)

    def clear(self, name: str, key: str) -> bool:
        with self._lock:
            known = self._current(name, key, _now()) is not None
            self._grids.pop((name, key), None)
            return known

    def prune(self) -> int:
        with self._lock:
            now = _now()
            before = len(self._grids)
            for name, key in list(self._grids):
                self._current(name, key, now)
            return before - len(self._grids)

    def _current(self, name: str, key: str, now: int) -> Grid | None:
        """A key's windows, or None when nothing is counted from now on."""
        grid = self._grids.get((name, key))
        if grid is None:
            return None
        grid.forget_before(now)
        if not grid.total:
            del self._grids[name, key]
            return None
        return grid

    def _grid(self, name: str, key: str, seconds: float, now: int) -> Grid:
        length = round(seconds * SECOND)
        grid = self._current(name, key, now)
        if grid is None or grid.length != length:
            grid = self._grids[name, key] = Grid(now, length)
        return grid


def _come_again(
    grids: Mapping[str, Grid], limits: Mapping[str, int], caller: str, now: int, is_overdue: bool
) -> LimitAnswer | None:
    """The answer to a caller who is kept a start, or has one now; else None, and what was left for it is dropped."""
    kept = {key: grid.kept[caller] for key, grid in grids.items() if caller in grid.kept}
    if kept and len(kept) == len(grids):
        starts_at = max(grids[key].start_of(index) for key, index in kept.items())
        if starts_at > now:
            return LimitAnswer(False, (starts_at - now) / SECOND, slots_of(grids, kept.items()))
        if all(grids[key].unclaimed_at(index) for key, index in kept.items()):
            return _claim_kept(grids, kept, caller)
        is_overdue = True
    for key in kept:
        grids[key].drop_kept(caller)
    return come_now(grids, limits, now, is_overdue=is_overdue)


def _claim_kept(grids: Mapping[str, Grid], kept: Mapping[str, int], caller: str) -> LimitAnswer:
    for grid in grids.values():
        grid.claim(grid.forget_caller(caller))
    return LimitAnswer(True, 0.0, slots_of(grids, kept.items()))


def _now() -> int:
    return int(clock.now() * SECOND)
