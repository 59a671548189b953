"""The rows of limits: the statements that are built once and run often."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, and_, bindparam, delete, func, insert, literal, select, update

from celery_laravel.stores.sqlalchemy.columns import Key, given, giving

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Delete, Insert, Row, Select, Table, Update

    from celery_laravel.stores.sqlalchemy.dialects.contract import Change, Count
    from celery_laravel.stores.sqlalchemy.engine import Database

PAGE = 64
"""Windows looked at in one go."""


class LimitRows:
    """Reads and changes the rows of limits within a connection's transaction.

    A key's row in ``limits`` is the lock of its windows and kept starts.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._dialect = database.dialect
        self._limits = database.tables.limits
        self._windows = database.tables.limit_windows
        self._starts = database.tables.limit_starts

    # -- grids -------------------------------------------------------------------------------------
    def lock(self, connection: Connection, name: str, keys: Iterable[str]) -> list[Row[Any]]:
        """The rows of keys that are known, locked one after another in the order of the keys."""
        return list(connection.execute(self._locking, giving(name=name, keys=sorted(keys))).all())

    def lock_or_make(self, connection: Connection, name: str, keys: Iterable[str]) -> list[Row[Any]]:
        """The rows of keys, locked; they are made where there are none."""
        wanted = set(keys)

        def lock() -> list[Row[Any]] | None:
            rows = self.lock(connection, name, wanted)
            missing = wanted.difference(row.key for row in rows)
            for key in sorted(missing):
                self._make(connection, giving(name=name, key=key))
            return None if missing else rows

        return self._database.until(lock, f"the limiter {name!r}")

    def now(self, connection: Connection) -> int:
        """The time; asked for once the rows are locked, lest a start be counted in a window that passed meanwhile."""
        return int(connection.execute(self._asking).scalar_one())

    def find(self, connection: Connection, name: str, key: str) -> Row[Any] | None:
        """A key's row as it is, with ``now``, and with the ``starts`` counted in the present window."""
        return connection.execute(self._finding, giving(name=name, key=key)).first()

    @cached_property
    def save(self) -> Update:
        """Change a grid's row, with the names of columns as parameters and ``given_number``."""
        columns = ("opened", "length", "expires", "current", "last_kept", "room_from", "room_limit")
        changes = {name: bindparam(name, type_=BigInteger()) for name in columns}
        return update(self._limits).where(self._limits.c.number == given("number")).values(changes)

    def empty(self, connection: Connection, numbers: Sequence[int]) -> None:
        """Remove the windows and kept starts of grids."""
        for statement in self._emptying:
            connection.execute(statement, giving(numbers=numbers))

    def remove(self, connection: Connection, numbers: Sequence[int]) -> None:
        """Remove grids with all that is in them."""
        self.empty(connection, numbers)
        connection.execute(self._removing, giving(numbers=numbers))

    def forget(self, connection: Connection, number: int, before: int) -> None:
        """Remove windows and kept starts that have passed."""
        for statement in self._forgetting:
            connection.execute(statement, giving(grid=number, before=before))

    # -- windows -----------------------------------------------------------------------------------
    def page(self, connection: Connection, number: int, position: int) -> dict[int, tuple[int, int]]:
        """The starts in windows from a position on, and how many of them are unclaimed; up to `PAGE` windows."""
        rows = connection.execute(self._paging, giving(grid=number, position=position))
        return {row.position: (row.starts, row.unclaimed) for row in rows}

    @cached_property
    def open_window(self) -> Insert:
        """Put down ``given_starts`` and ``given_unclaimed`` of the window ``given_position``, which has no row."""
        values = {name: given(name) for name in ("grid", "position", "starts", "unclaimed")}
        return insert(self._windows).inline().values(values)

    @cached_property
    def change_window(self) -> Update:
        """The same for a window that has a row."""
        return (
            update(self._windows).where(*self._same_window).values(starts=given("starts"), unclaimed=given("unclaimed"))
        )

    @cached_property
    def drop_window(self) -> Delete:
        """Remove the row of a window in which no start is counted any more."""
        return delete(self._windows).where(*self._same_window)

    def last(self, connection: Connection, number: int) -> int | None:
        """The last window in which a start is counted; None when there is none."""
        last = connection.scalar(self._last, giving(grid=number))
        return None if last is None else int(last)

    # -- kept starts -------------------------------------------------------------------------------
    def kept(self, connection: Connection, numbers: Sequence[int], caller: str) -> dict[int, int]:
        """Where starts are kept for a caller: grid to window."""
        rows = connection.execute(self._kept, giving(numbers=numbers, caller=caller))
        return {row.grid: row.position for row in rows}

    @cached_property
    def keep(self) -> Change:
        """Keep the start in ``given_position`` of ``given_grid`` for ``given_caller``."""
        starts = self._starts.c
        position = given("position")
        values = {starts.grid: given("grid"), starts.caller: given("caller", Key()), starts.position: position}
        return self._dialect.put(self._starts, values=values, changes={starts.position: position}, columns=())

    def drop(self, connection: Connection, numbers: Sequence[int], caller: str) -> None:
        """Keep nothing for a caller any more."""
        connection.execute(self._dropping_start, giving(numbers=numbers, caller=caller))

    # -- statements --------------------------------------------------------------------------------
    @cached_property
    def _locking(self) -> Select[Any]:
        limits = self._limits.c
        keys = limits.key.in_(given("keys", Key(), expanding=True))
        return select(self._limits).where(self._named, keys).order_by(limits.key).with_for_update()

    @property
    def _named(self) -> ColumnElement[bool]:
        return self._limits.c.name == given("name", Key())

    @cached_property
    def _make(self) -> Count:
        values = {column.name: _ZERO for column in self._limits.c if not column.primary_key}
        values |= {"name": given("name", Key()), "key": given("key", Key()), "last_kept": literal(-1, BigInteger())}
        return self._dialect.counted(self._dialect.insert_new(self._limits).values(values))

    @cached_property
    def _asking(self) -> Select[Any]:
        return select(self._dialect.now)

    @cached_property
    def _finding(self) -> Select[Any]:
        limits, windows, now = self._limits.c, self._windows.c, self._dialect.now
        position = (now - limits.opened) // func.nullif(limits.length, _ZERO, type_=BigInteger())
        present = and_(windows.grid == limits.number, windows.position == position)
        found = select(self._limits, now.label("now"), func.coalesce(windows.starts, _ZERO).label("starts"))
        found = found.select_from(self._limits.outerjoin(self._windows, present))
        return found.where(self._named, limits.key == given("key", Key()))

    @cached_property
    def _emptying(self) -> list[Delete]:
        return [delete(table).where(table.c.grid.in_(_NUMBERS)) for table in (self._windows, self._starts)]

    @cached_property
    def _removing(self) -> Delete:
        return delete(self._limits).where(self._limits.c.number.in_(_NUMBERS))

    @cached_property
    def _forgetting(self) -> list[Delete]:
        def passed(table: Table) -> Delete:
            return delete(table).where(table.c.grid == given("grid"), table.c.position < given("before"))

        return [passed(self._windows), passed(self._starts)]

    @cached_property
    def _paging(self) -> Select[Any]:
        windows = self._windows.c
        found = select(windows.position, windows.starts, windows.unclaimed)
        found = found.where(windows.grid == given("grid"), windows.position >= given("position"))
        return found.order_by(windows.position).limit(PAGE)

    @property
    def _same_window(self) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        windows = self._windows.c
        return windows.grid == given("grid"), windows.position == given("position")

    @cached_property
    def _last(self) -> Select[Any]:
        return select(func.max(self._windows.c.position)).where(self._windows.c.grid == given("grid"))

    @cached_property
    def _kept(self) -> Select[Any]:
        starts = self._starts.c
        return select(starts.grid, starts.position).where(*self._of_caller)

    @cached_property
    def _dropping_start(self) -> Delete:
        return delete(self._starts).where(*self._of_caller)

    @property
    def _of_caller(self) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        starts = self._starts.c
        return starts.grid.in_(_NUMBERS), starts.caller == given("caller", Key())


_ZERO = literal(0, BigInteger())
_NUMBERS = given("numbers", expanding=True)
