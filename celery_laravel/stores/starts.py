"""How a start is granted, or kept for later: the rules of `LimitStore.take`, for back ends that count in Python.

Windows are numbered from 0; instants are whole microseconds, since a float
would have the beginning of a window lie in the one before it now and then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from celery_laravel.stores.instants import SECOND
from celery_laravel.stores.records import LimitAnswer, Slot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Windows(Protocol):
    """The windows of one key, which nobody else changes meanwhile; ``length`` is that of each, in microseconds."""

    length: int

    def index_at(self, instant: int) -> int:
        """The window in which an instant falls."""

    def start_of(self, index: int) -> int:
        """When a window begins."""

    def count_at(self, index: int) -> int:
        """How many starts a window counts."""

    def granted_at(self, index: int) -> int:
        """How many of them were granted, and not only kept."""

    def first_with_room(self, instant: int, limit: int) -> int:
        """The first instant, not before the given one, whose window has room."""

    def count(self, index: int) -> int:
        """Count a start; return how many the window has."""

    def keep(self, index: int, caller: str) -> None:
        """Count a start, and keep it for a caller."""

    def claim(self, index: int) -> None:
        """Grant a start that is kept in a window, whoever it is kept for."""


def come_now(
    grids: Mapping[str, Windows], limits: Mapping[str, int], now: int, *, is_overdue: bool
) -> LimitAnswer | None:
    """Grant a start in the present windows, where need be one that is kept for others; None where one has no more.

    Who is not overdue has what is kept for others only where the shortest of
    the windows is half over.
    """
    indices = {key: grid.index_at(now) for key, grid in grids.items()}
    shortest = min((grid.length for grid in grids.values()), default=0)
    for key, index in indices.items():
        grid = grids[key]
        is_half_over = 2 * (now - grid.start_of(index)) >= grid.length
        if is_overdue or (grid.length == shortest and is_half_over):
            if grid.granted_at(index) >= limits[key]:
                return None
        elif grid.first_with_room(now, limits[key]) > now:
            return None
    for key, index in indices.items():
        if grids[key].count_at(index) < limits[key]:
            grids[key].count(index)
        else:
            grids[key].claim(index)
    return LimitAnswer(True, 0.0, slots_of(grids, indices.items()))


def come_anew(grids: Mapping[str, Windows], limits: Mapping[str, int], caller: str | None, now: int) -> LimitAnswer:
    """Count a start at the first instant at which all windows have room; a later one is kept for its caller."""
    instant = _first_with_room(grids, limits, now)
    if instant > now and caller is None:
        return LimitAnswer(False, (instant - now) / SECOND)
    indices = {key: grid.index_at(instant) for key, grid in grids.items()}
    for key, index in indices.items():
        if caller is None or instant <= now:
            grids[key].count(index)
        else:
            grids[key].keep(index, caller)
    return LimitAnswer(instant <= now, (instant - now) / SECOND, slots_of(grids, indices.items()))


def slots_of(grids: Mapping[str, Windows], indices: Iterable[tuple[str, int]]) -> tuple[Slot, ...]:
    """The records of starts in these windows, given as key and index."""
    return tuple(Slot(key, grids[key].start_of(index) / SECOND) for key, index in indices)


def _first_with_room(grids: Mapping[str, Windows], limits: Mapping[str, int], now: int) -> int:
    instant, before = now, None
    while instant != before:
        before = instant
        for key, limit in limits.items():
            instant = grids[key].first_with_room(instant, limit)
    return instant
