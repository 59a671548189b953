"""Delayed jobs in an SQL database."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, case, delete, literal, or_, select, update

from celery_laravel.stores.instants import as_datetime
from celery_laravel.stores.records import DelayRecord, refuse_targets
from celery_laravel.stores.sqlalchemy.columns import Characters, Identifier, Key, given, giving, lasting
from celery_laravel.stores.sqlalchemy.dialects.inserting import filled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from sqlalchemy import Connection, Insert, Row, Select, Update

    from celery_laravel.stores.records import NewDelay
    from celery_laravel.stores.sqlalchemy.engine import Database

_SLICE = 500  # entries in one statement: SQLite takes no more than some thousand parameters, older ones 999


class SQLDelayStore:
    """A `DelayStore` in a table with a row for each message.

    ``leaves`` is when a message may be claimed: when it is due, and while it is
    claimed, when the lease ends.
    """

    server = None

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.tables.delays

    def park(self, delays: Sequence[NewDelay]) -> None:
        refuse_targets(delays)
        if len(delays) == 1:
            parameters = _parameters(delays[0])
            self._database.single(lambda connection: connection.execute(self._park, parameters))
        elif delays:
            rows = [_parameters(delay) for delay in delays]
            self._database.transaction(lambda connection: connection.execute(self._park, rows))

    def move(self, *, limit: int) -> int:
        return 0

    def claim(self, *, limit: int, lease: timedelta) -> list[DelayRecord]:
        if self._database.single(lambda connection: connection.execute(self._is_due).first()) is None:
            return []  # without a transaction that writes, which on SQLite keeps all others out

        def work(connection: Connection) -> Sequence[Row[Any]]:
            rows = connection.execute(self._due.limit(limit)).all()
            for start in range(0, len(rows), _SLICE):
                numbers = [row.number for row in rows[start : start + _SLICE]]
                connection.execute(self._claim, giving(numbers=numbers, lease=lasting(lease)))
            return rows

        return [_record(row) for row in self._database.transaction(work)]

    def remove(self, entries: Sequence[str]) -> int:
        def work(connection: Connection) -> int:
            removed = 0
            for start in range(0, len(entries), _SLICE):
                is_one = self._table.c.entry.in_(entries[start : start + _SLICE])
                removed += connection.execute(delete(self._table).where(is_one)).rowcount
            return removed

        return self._database.transaction(work)

    def revoke(self, entry: str, message: str) -> bool:
        parameters = giving(entry=entry, message=message)

        def work(connection: Connection) -> bool:
            if connection.execute(self._revoke, parameters).rowcount:
                return True
            return connection.execute(self._number, parameters).first() is not None

        return self._database.transaction(work)

    def find(self, job_id: str) -> list[DelayRecord]:
        return self._all(self._listing.where(self._table.c.job_id == job_id))

    def all(self, *, queue: str | None = None, limit: int | None = None) -> list[DelayRecord]:
        statement = self._listing if queue is None else self._listing.where(self._table.c.queue == queue)
        return self._all(statement if limit is None else statement.limit(limit))

    def count(self, *, queue: str | None = None) -> int:
        return self._database.count(self._table, queue)

    def _all(self, statement: Select[Any]) -> list[DelayRecord]:
        rows = self._database.single(lambda connection: connection.execute(statement).all())
        return [_record(row) for row in rows]

    # -- statements --------------------------------------------------------------------------------
    @cached_property
    def _park(self) -> Insert:
        table, now = self._table.c, self._database.dialect.now
        due = now + given("delay")
        values: dict[Any, Any] = {
            table.entry: given("entry", Key()),
            table.job_id: given("job_id", Identifier()),
            table.task: given("task", Characters()),
            table.queue: given("queue", Characters()),
            table.message: given("message", Characters()),
            table.due: due,
            table.leaves: due,
            table.parked: now,
            table.is_revoked: literal(False, Boolean()),
        }
        insertion: Insert = filled(self._database.dialect.insert_new(self._table), values)
        return insertion

    @cached_property
    def _is_due(self) -> Select[Any]:
        return select(self._table.c.number).where(self._table.c.leaves <= self._database.dialect.now).limit(1)

    @cached_property
    def _due(self) -> Select[Any]:
        """Those that are due and that nobody else is about to claim, locked."""
        table = self._table.c
        found = select(self._table).where(table.leaves <= self._database.dialect.now)
        return found.order_by(table.leaves, table.number).with_for_update(skip_locked=True)

    @cached_property
    def _claim(self) -> Update:
        is_one = self._table.c.number.in_(given("numbers", expanding=True))
        return update(self._table).where(is_one).values(leaves=self._database.dialect.now + given("lease"))

    @cached_property
    def _revoke(self) -> Update:
        table, now = self._table.c, self._database.dialect.now
        is_one = table.entry == given("entry", Key())
        keeps_its_place = or_(table.leaves > table.due, table.leaves < now)  # it is claimed, or has long been due
        changes = {
            table.leaves: case((keeps_its_place, table.leaves), else_=now),
            table.message: given("message", Characters()),
            table.is_revoked: literal(True, Boolean()),
        }
        return update(self._table).where(is_one, table.is_revoked.is_(False)).values(changes)

    @cached_property
    def _number(self) -> Select[Any]:
        return select(self._table.c.number).where(self._table.c.entry == given("entry", Key()))

    @cached_property
    def _listing(self) -> Select[Any]:
        return select(self._table).order_by(self._table.c.due, self._table.c.number)


def _parameters(delay: NewDelay) -> dict[str, Any]:
    return giving(
        entry=delay.entry,
        job_id=delay.job_id,
        task=delay.task,
        queue=delay.queue,
        message=delay.message,
        delay=max(0, lasting(delay.delay)),
    )


def _record(row: Row[Any]) -> DelayRecord:
    return DelayRecord(
        entry=row.entry,
        job_id=row.job_id,
        task=row.task,
        queue=row.queue,
        message=row.message,
        target=None,
        due_at=as_datetime(row.due),
        parked_at=as_datetime(row.parked),
        is_revoked=row.is_revoked,
    )
