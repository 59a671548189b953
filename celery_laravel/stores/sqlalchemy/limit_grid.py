"""The windows of one key, as a transaction that has locked them sees and changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_laravel.stores.instants import SECOND
from celery_laravel.stores.sqlalchemy.columns import FOR_EVER, giving
from celery_laravel.stores.sqlalchemy.limit_rows import PAGE

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from celery_laravel.stores.records import Slot
    from celery_laravel.stores.sqlalchemy.limit_rows import LimitRows

_SAVED = ("opened", "length", "expires", "current", "last_kept", "room_from", "room_limit")


class Grid:
    """A key's `Windows` from the present one on.

    What was counted and kept in windows that have passed is removed when the
    first call of a later window comes by. Changes of the grid's own row are
    collected until `save`.
    """

    def __init__(self, rows: LimitRows, connection: Connection, row: Row[Any], now: int) -> None:
        self._rows = rows
        self._connection = connection
        self._now = now
        self.key: str = row.key
        self.number: int = row.number
        self.opened: int = row.opened
        self.length: int = row.length
        self.expires: int = row.expires
        self.current: int = row.current
        self.last_kept: int = row.last_kept
        self.room_from: int = row.room_from
        self.room_limit: int = row.room_limit
        self._as_it_was = self._state()
        self._page: dict[int, tuple[int, int]] = {}
        self._page_begins = self._page_ends = 0
        if self.is_alive and self.index_at(now) > self.current:
            self.current = self.index_at(now)
            self.room_from = max(self.room_from, self.current)
            rows.forget(connection, self.number, self.current)

    # -- times -------------------------------------------------------------------------------------
    @property
    def is_alive(self) -> bool:
        """Whether a start is counted in the present window or a later one."""
        return self.expires > self._now

    def index_at(self, instant: int) -> int:
        """The window in which an instant falls."""
        return max(0, (instant - self.opened) // self.length)

    def start_of(self, index: int) -> int:
        """When a window begins."""
        return self.opened + index * self.length

    def index_of(self, slot: Slot) -> int | None:
        """The window of a record; None when that has passed, or is none of these."""
        index, rest = divmod(round(slot.window_start * SECOND) - self.opened, self.length)
        return None if rest or index < self.current else index

    def begin_anew(self, length: int) -> None:
        """Begin with a first window now, unless windows of this length are counted in."""
        if self.is_alive and self.length == length:
            return
        if self.length:
            self._rows.empty(self._connection, [self.number])
        self.opened, self.length, self.expires = self._now, length, 0
        self.current, self.last_kept, self.room_from, self.room_limit = 0, -1, 0, 0
        self._page_ends = self._page_begins

    # -- counts ------------------------------------------------------------------------------------
    def count_at(self, index: int) -> int:
        """How many starts a window counts."""
        return self._window(index)[0]

    def unclaimed_at(self, index: int) -> int:
        """How many of them are kept, and not granted to anybody yet."""
        return self._window(index)[1]

    def granted_at(self, index: int) -> int:
        """How many of them were granted."""
        starts, unclaimed = self._window(index)
        return starts - unclaimed

    def first_with_room(self, instant: int, limit: int) -> int:
        """The first instant, not before the given one, whose window has room.

        What was learned is kept in the row: up to ``room_from`` no window has
        room for who asks with ``room_limit`` or less. So one who comes when N
        wait does not look at the windows of all N.
        """
        index = self.index_at(instant)
        is_told = limit <= self.room_limit
        begin = max(index, self.room_from) if is_told else index
        found = begin
        while self.count_at(found) >= limit:
            found += 1
        is_known_before = begin <= self.room_from if is_told else index == self.current
        if is_known_before and (found > self.room_from or not is_told):
            self.room_from, self.room_limit = found, limit
        return instant if found == index else self.start_of(found)

    def count(self, index: int) -> int:
        """Count a start; return how many the window has."""
        self._change(index, starts=1)
        return self.count_at(index)

    def uncount(self, index: int) -> None:
        """Take back a start that was granted, if the window has one."""
        if self.granted_at(index):
            self._change(index, starts=-1)

    def keep(self, index: int, caller: str) -> None:
        """Count a start, and keep it for a caller."""
        self._change(index, starts=1, unclaimed=1)
        self._rows.keep(self._connection, giving(grid=self.number, caller=caller, position=index))
        self.last_kept = max(self.last_kept, index)

    def claim(self, index: int) -> None:
        """Grant a start that is kept in a window, whoever it is kept for."""
        self._change(index, unclaimed=-1)

    def give_up(self, index: int) -> None:
        """Take back a start that is kept, unless those that were are all granted."""
        if self.unclaimed_at(index):
            self._change(index, starts=-1, unclaimed=-1)

    @property
    def may_keep(self) -> bool:
        """Whether a start may be kept for anybody."""
        return self.is_alive and self.last_kept >= self.current

    # -- writing -----------------------------------------------------------------------------------
    def save(self) -> None:
        """Write the row if it has changed."""
        if self._state() != self._as_it_was:
            self._connection.execute(self._rows.save, self._state() | giving(number=self.number))

    def _window(self, index: int) -> tuple[int, int]:
        if not self._page_begins <= index < self._page_ends:
            self._page = self._rows.page(self._connection, self.number, index) if self.is_alive else {}
            self._page_begins = index
            self._page_ends = max(self._page) + 1 if len(self._page) == PAGE else FOR_EVER
        return self._page.get(index, (0, 0))

    def _change(self, index: int, *, starts: int = 0, unclaimed: int = 0) -> None:
        """Write what a window counts now; its row is there if it counts anything."""
        before, kept_before = self._window(index)
        counted, kept = before + starts, kept_before + unclaimed
        parameters = giving(grid=self.number, position=index, starts=counted, unclaimed=kept)
        self._page[index] = counted, kept
        if not counted:
            self._connection.execute(self._rows.drop_window, parameters)
            last = self._rows.last(self._connection, self.number)
            self.expires = 0 if last is None else self._end_of(last)
        elif before:
            self._connection.execute(self._rows.change_window, parameters)
        else:
            self._connection.execute(self._rows.open_window, parameters)
            self.expires = max(self.expires, self._end_of(index))
        if starts < 0:
            self.room_from = min(self.room_from, index)

    def _state(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _SAVED}

    def _end_of(self, index: int) -> int:
        return min(self.start_of(index + 1), FOR_EVER)
