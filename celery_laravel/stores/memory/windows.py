"""The windows of one limit in memory, in whole microseconds."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from heapq import heappop, heappush


@dataclass
class _Window:
    """``count`` starts, of which ``unclaimed`` are kept and not granted to anybody yet; for whom starts are kept."""

    count: int = 0
    unclaimed: int = 0
    callers: set[str] = field(default_factory=set)


class Grid:
    """One key's `Windows`: where they begin, what each has counted, and whose start is kept in which."""

    def __init__(self, anchor: int, length: int) -> None:
        self.anchor = anchor
        self.length = length
        self.total = 0
        self.kept: dict[str, int] = {}
        self._windows: dict[int, _Window] = {}
        self._order: list[int] = []
        self._limit = 0
        self._full = _Runs()

    def index_at(self, instant: int) -> int:
        return max(0, (instant - self.anchor) // self.length)

    def start_of(self, index: int) -> int:
        return self.anchor + index * self.length

    def count_at(self, index: int) -> int:
        window = self._windows.get(index)
        return 0 if window is None else window.count

    def unclaimed_at(self, index: int) -> int:
        window = self._windows.get(index)
        return 0 if window is None else window.unclaimed

    def granted_at(self, index: int) -> int:
        return self.count_at(index) - self.unclaimed_at(index)

    def first_with_room(self, instant: int, limit: int) -> int:
        """The first instant, not before the given one, whose window has room."""
        self._find_full(limit)
        index = self.index_at(instant)
        room = self._full.end_of(index)
        return instant if room == index else self.start_of(room)

    def count(self, index: int) -> int:
        """Count a start; return the window's count."""
        window = self._windows.get(index)
        if window is None:
            window = self._windows[index] = _Window()
            heappush(self._order, index)
        window.count += 1
        self.total += 1
        if window.count == self._limit:
            self._full.add(index)
        return window.count

    def uncount(self, index: int) -> None:
        """Take back a start that was granted, if the window has one."""
        if self.granted_at(index):
            self._uncount(index)

    def keep(self, index: int, caller: str) -> None:
        """Count a start, and keep it for a caller."""
        self.count(index)
        self.kept[caller] = index
        self._windows[index].unclaimed += 1
        self._windows[index].callers.add(caller)

    def claim(self, index: int) -> None:
        """Grant a start that is kept in a window, whoever it is kept for."""
        self._windows[index].unclaimed -= 1

    def forget_caller(self, caller: str) -> int:
        """Forget that a start is kept for a caller, not the start; return its window."""
        index = self.kept.pop(caller)
        self._windows[index].callers.discard(caller)
        return index

    def drop_kept(self, caller: str) -> None:
        """Drop the start that is kept for a caller, unless another one was granted it."""
        index = self.forget_caller(caller)
        if self.unclaimed_at(index):
            self.claim(index)
            self._uncount(index)

    def forget_before(self, instant: int) -> None:
        """Forget the windows that have passed, and those who did not come for them."""
        current = self.index_at(instant)
        while self._order and self._order[0] < current:
            window = self._windows.pop(heappop(self._order))
            self.total -= window.count
            for caller in window.callers:
                del self.kept[caller]
        self._full.forget_before(current)

    def _uncount(self, index: int) -> None:
        window = self._windows[index]
        if window.count == self._limit:
            self._full.remove(index)
        window.count -= 1
        self.total -= 1

    def _find_full(self, limit: int) -> None:
        """Know which windows are full by this limit: at once for the limit asked for last, else by looking at all."""
        if limit != self._limit:
            self._limit, self._full = limit, _Runs()
            for index in sorted(index for index, window in self._windows.items() if window.count >= limit):
                self._full.add(index)


class _Runs:
    """Runs of full windows that touch, by their first index and the first after them.

    However many callers wait, the first window with room is one look away.
    """

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []

    def end_of(self, index: int) -> int:
        """The first index, not before the given one, that is in no run."""
        place = bisect_right(self._firsts, index) - 1
        return max(index, self._ends[place]) if place >= 0 else index

    def add(self, index: int) -> None:
        place = bisect_right(self._firsts, index)
        joins_before = place > 0 and self._ends[place - 1] == index
        joins_after = place < len(self._firsts) and self._firsts[place] == index + 1
        if joins_before and joins_after:
            del self._firsts[place], self._ends[place - 1]
        elif joins_before:
            self._ends[place - 1] = index + 1
        elif joins_after:
            self._firsts[place] = index
        else:
            self._firsts.insert(place, index)
            self._ends.insert(place, index + 1)

    def remove(self, index: int) -> None:
        place = bisect_right(self._firsts, index) - 1
        first, end = self._firsts[place], self._ends[place]
        parts = [(first, index), (index + 1, end)]
        self._firsts[place : place + 1] = [first for first, end in parts if first < end]
        self._ends[place : place + 1] = [end for first, end in parts if first < end]

    def forget_before(self, index: int) -> None:
        place = bisect_right(self._ends, index)
        del self._firsts[:place], self._ends[:place]
