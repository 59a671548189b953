"""Debounced jobs in an SQL database."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, and_, case, literal, select, update

from celery_laravel.stores.instants import SECOND
from celery_laravel.stores.records import Place
from celery_laravel.stores.sqlalchemy.columns import FOR_EVER, Characters, Json, Key, given, giving, lasting
from celery_laravel.stores.sqlalchemy.pruning import ExpiredRows, Pruning

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy import ColumnElement, Connection, Row, Select, Update

    from celery_laravel.stores.sqlalchemy.dialects.contract import Change, Values
    from celery_laravel.stores.sqlalchemy.engine import Database


class SQLDebounceStore:
    """A `DebounceStore` in a table with a row for each period."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.tables.debounces
        self._pruning = Pruning(database, ExpiredRows(database, self._table.c.key))

    def reserve(self, key: str, *, wait: timedelta, max_wait: timedelta | None, keep: timedelta) -> Place:
        place = self._database.transaction(
            lambda connection: self.reserve_within(connection, key, wait=wait, max_wait=max_wait, keep=keep)
        )
        self._pruning.now_and_then()
        return place

    def reserve_within(
        self, connection: Connection, key: str, *, wait: timedelta, max_wait: timedelta | None, keep: timedelta
    ) -> Place:
        """`reserve`, as part of a transaction."""
        longest = FOR_EVER if max_wait is None else lasting(max_wait)
        parameters = giving(key=key, keep=lasting(keep))
        last = connection.execute(self._last, parameters).first()
        period = 1
        if last is not None:
            is_over = bool(last.started) or last.now >= last.opened + longest
            period = last.period + is_over
        row = self._reserve(connection, parameters | giving(period=period))
        assert row is not None, "there is no condition"
        now = row.expires - lasting(keep)
        delay = min(lasting(wait), row.opened + longest - now)
        return Place(period, row.reserved, max(0, delay) / SECOND)

    def confirm(self, key: str, place: Place, *, job_id: str, keep: timedelta) -> None:
        parameters = giving(key=key, period=place.period, number=place.number, job_id=job_id, keep=lasting(keep))
        self._database.single(lambda connection: connection.execute(self._confirm, parameters))

    def start(self, key: str, place: Place) -> str | None:
        parameters = giving(key=key, period=place.period)

        def work(connection: Connection) -> str | None:
            row = connection.execute(self._look, parameters).first()
            if row is None or place.number in row.started:
                return None
            if row.newest > place.number:
                return str(row.job_id)
            connection.execute(self._start, parameters | _started(row, place.number))
            return None

        return self._database.transaction(work)

    def prune(self) -> int:
        return self._pruning.all()

    # -- statements --------------------------------------------------------------------------------
    @cached_property
    def _last(self) -> Select[Any]:
        """The last period of a key, locked."""
        table, now = self._table.c, self._database.dialect.now
        found = select(table.period, table.opened, table.started, now.label("now"))
        found = found.where(table.key == given("key", Key()), table.expires > now)
        return found.order_by(table.period.desc()).limit(1).with_for_update()

    @cached_property
    def _reserve(self) -> Change:
        """The next number of a period, or the first one where it is not known or has been forgotten."""
        table, now = self._table.c, self._database.dialect.now
        values: Values = {
            table.key: given("key", Key()),
            table.period: given("period"),
            table.opened: now,
            table.expires: now + given("keep"),
            table.reserved: literal(1, BigInteger()),
            table.newest: literal(0, BigInteger()),
            table.job_id: literal("", Characters()),
            table.started: literal([], Json()),
        }
        is_past = table.expires <= now
        changes: dict[Any, ColumnElement[Any]] = {
            column: case((is_past, values[column]), else_=column)
            for column in (table.opened, table.newest, table.job_id, table.started)
        }
        changes[table.reserved] = case((is_past, values[table.reserved]), else_=table.reserved + 1)
        changes[table.expires] = values[table.expires]
        columns = [table.reserved, table.opened, table.expires]
        return self._database.dialect.put(self._table, values=values, changes=changes, columns=columns)

    @cached_property
    def _confirm(self) -> Update:
        table, number = self._table.c, given("number")
        confirmed: Values = {
            table.newest: number,
            table.job_id: given("job_id", Characters()),
            table.expires: self._database.dialect.now + given("keep"),
        }
        return update(self._table).where(self._is_period, table.newest <= number).values(confirmed)

    @cached_property
    def _look(self) -> Select[Any]:
        table = self._table.c
        return select(table.newest, table.job_id, table.started).where(self._is_period).with_for_update()

    @cached_property
    def _start(self) -> Update:
        table = self._table.c
        started: Values = {
            table.newest: given("newest"),
            table.job_id: given("job_id", Characters()),
            table.started: given("started", Json()),
        }
        return update(self._table).where(self._is_period).values(started)

    @property
    def _is_period(self) -> ColumnElement[bool]:
        """Whether a row is that of the period, and not forgotten."""
        table = self._table.c
        is_same = and_(table.key == given("key", Key()), table.period == given("period"))
        return and_(is_same, table.expires > self._database.dialect.now)


def _started(row: Row[Any], number: int) -> dict[str, Any]:
    """What is kept of a period once the job of a place has started; it need not have been confirmed."""
    job_id = row.job_id if row.newest == number else ""
    return giving(newest=number, job_id=job_id, started=[*row.started, number])
