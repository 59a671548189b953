"""Limits in an SQL database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from celery_laravel.stores.instants import SECOND
from celery_laravel.stores.records import LimitAnswer, WindowState, limits_by_key
from celery_laravel.stores.sqlalchemy.columns import given, giving, microseconds
from celery_laravel.stores.sqlalchemy.limit_grid import Grid
from celery_laravel.stores.sqlalchemy.limit_rows import LimitRows
from celery_laravel.stores.sqlalchemy.pruning import SLICE, Pruning
from celery_laravel.stores.starts import come_anew, come_now, slots_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from celery_laravel.stores.records import Slot, Window
    from celery_laravel.stores.sqlalchemy.engine import Database

    Grids = Mapping[str, Grid]


class SQLLimitStore:
    """A `LimitStore` in three tables: keys, the windows in which starts are counted, and those that are kept.

    A key's row is the lock of its windows. A call locks the rows of all its
    keys in their order, so that no two wait for each other; then it looks at
    the time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = LimitRows(database)
        self._pruning = Pruning(database, ExpiredGrids(database, self._rows))

    def take(
        self, name: str, windows: Sequence[Window], *, caller: str | None = None, is_overdue: bool = False
    ) -> LimitAnswer:
        limits_by_key(name, windows)  # refuses two of the same key
        if not windows:
            return LimitAnswer(True)
        answer = self._database.transaction(
            lambda connection: self.take_within(connection, name, windows, caller=caller, is_overdue=is_overdue)
        )
        self._pruning.now_and_then()
        return answer

    def take_within(
        self,
        connection: Connection,
        name: str,
        windows: Sequence[Window],
        *,
        caller: str | None = None,
        is_overdue: bool = False,
    ) -> LimitAnswer:
        """`take`, as part of a transaction."""
        limits = {window.key: window.limit for window in windows}
        grids, now = self._open(connection, name, {window.key: _length(window.seconds) for window in windows})
        answer = None
        if caller is not None:
            answer, was_late = self._come_again(connection, grids, caller, now)
            if answer is None:
                answer = come_now(grids, limits, now, is_overdue=was_late or is_overdue)
        if answer is None:
            answer = come_anew(grids, limits, caller, now)
        _save(grids)
        return answer

    def give_back(self, name: str, slots: Sequence[Slot]) -> None:
        def work(connection: Connection) -> None:
            grids = self._known(connection, name, {slot.key for slot in slots})
            for slot in slots:
                grid = grids.get(slot.key)
                index = None if grid is None or not grid.is_alive else grid.index_of(slot)
                if grid is not None and index is not None:
                    grid.uncount(index)
            _save(grids)

        if slots:
            self._database.transaction(work)

    def cancel(self, name: str, keys: Sequence[str], *, caller: str) -> None:
        def work(connection: Connection) -> None:
            grids = self._known(connection, name, set(keys))
            self._drop(connection, grids, self._kept(connection, grids, caller), caller)
            _save(grids)

        if keys:
            self._database.transaction(work)

    def hit(self, name: str, key: str, *, seconds: float) -> int:
        lengths = {key: _length(seconds)}

        def work(connection: Connection) -> int:
            grids, now = self._open(connection, name, lengths)
            count = grids[key].count(grids[key].index_at(now))
            _save(grids)
            return count

        count = self._database.transaction(work)
        self._pruning.now_and_then()
        return count

    def look(self, name: str, key: str) -> WindowState:
        row = self._database.single(lambda connection: self._rows.find(connection, name, key))
        if row is None or row.expires <= row.now:
            return WindowState()
        index = max(0, (row.now - row.opened) // row.length)
        return WindowState(row.starts, (row.opened + (index + 1) * row.length - row.now) / SECOND)

    def clear(self, name: str, key: str) -> bool:
        def work(connection: Connection) -> bool:
            rows = self._rows.lock(connection, name, [key])
            if not rows:
                return False
            now = self._rows.now(connection)
            self._rows.remove(connection, [row.number for row in rows])
            return any(row.expires > now for row in rows)

        return self._database.transaction(work)

    def prune(self) -> int:
        return self._pruning.all()

    # -- steps -------------------------------------------------------------------------------------
    def _open(self, connection: Connection, name: str, lengths: Mapping[str, int]) -> tuple[dict[str, Grid], int]:
        """The grids of keys, locked and with windows of these lengths, in the order of the keys given; and the time."""
        rows = {row.key: row for row in self._rows.lock_or_make(connection, name, lengths)}
        now = self._rows.now(connection)
        grids = {key: Grid(self._rows, connection, rows[key], now) for key in lengths}
        for key, length in lengths.items():
            grids[key].begin_anew(length)
        return grids, now

    def _known(self, connection: Connection, name: str, keys: set[str]) -> dict[str, Grid]:
        """The grids of keys that are known, locked."""
        rows = self._rows.lock(connection, name, keys)
        if not rows:
            return {}
        now = self._rows.now(connection)
        return {row.key: Grid(self._rows, connection, row, now) for row in rows}

    def _come_again(
        self, connection: Connection, grids: Grids, caller: str, now: int
    ) -> tuple[LimitAnswer | None, bool]:
        """The answer to a caller whose start is kept in all windows, and whether it has gone to one who was overdue.

        With no answer, what is left of what was kept for the caller is dropped.
        """
        kept = self._kept(connection, grids, caller)
        is_whole = len(kept) == len(grids)
        if is_whole:
            slots = slots_of(grids, [(key, kept[key]) for key in grids])
            starts_at = max(grid.start_of(kept[key]) for key, grid in grids.items())
            if starts_at > now:
                return LimitAnswer(False, (starts_at - now) / SECOND, slots), False
            if all(grid.unclaimed_at(kept[key]) for key, grid in grids.items()):
                self._forget_caller(connection, grids, kept, caller)
                for key, grid in grids.items():
                    grid.claim(kept[key])
                return LimitAnswer(True, 0.0, slots), False
        self._drop(connection, grids, kept, caller)
        return None, is_whole

    def _kept(self, connection: Connection, grids: Grids, caller: str) -> dict[str, int]:
        """Where starts are kept for a caller, from the present windows on: key to window."""
        numbers = [grid.number for grid in grids.values() if grid.may_keep]
        positions = self._rows.kept(connection, numbers, caller) if numbers else {}
        found = {key: positions.get(grid.number, -1) for key, grid in grids.items()}
        return {key: position for key, position in found.items() if position >= grids[key].current}

    def _drop(self, connection: Connection, grids: Grids, kept: Mapping[str, int], caller: str) -> None:
        self._forget_caller(connection, grids, kept, caller)
        for key, index in kept.items():
            grids[key].give_up(index)

    def _forget_caller(self, connection: Connection, grids: Grids, kept: Mapping[str, int], caller: str) -> None:
        if kept:
            self._rows.drop(connection, [grids[key].number for key in kept], caller)


class ExpiredGrids:
    """The keys whose windows have all passed."""

    def __init__(self, database: Database, rows: LimitRows) -> None:
        self._rows = rows
        limits = database.tables.limits.c
        has_expired = limits.expires <= database.dialect.now
        numbers = limits.number.in_(given("numbers", expanding=True))
        self._finding = select(limits.number).where(has_expired).order_by(limits.expires).limit(SLICE)
        # In the order in which `take` locks them.
        ordered = select(limits.number).where(numbers, has_expired).order_by(limits.name, limits.key)
        self._locking = ordered.with_for_update()

    def find(self, connection: Connection) -> Sequence[Any]:
        """The numbers of grids that have expired."""
        return connection.scalars(self._finding).all()

    def remove(self, connection: Connection, keys: Sequence[Any]) -> int:
        """Remove those of these numbers that have, with all that is in them."""
        numbers = connection.scalars(self._locking, giving(numbers=keys)).all()
        if numbers:
            self._rows.remove(connection, numbers)
        return len(numbers)


def _save(grids: Grids) -> None:
    for grid in grids.values():
        grid.save()


def _length(seconds: float) -> int:
    return max(1, microseconds(seconds))
