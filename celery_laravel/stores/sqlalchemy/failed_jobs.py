"""Failed jobs in an SQL database."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, or_, select, update

from celery_laravel.stores.instants import as_datetime, as_microseconds, known_instant
from celery_laravel.stores.records import FailedJob
from celery_laravel.stores.sqlalchemy.columns import Identifier, given, giving, lasting

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from sqlalchemy import Connection, Delete, Row, Select, Update

    from celery_laravel.stores.sqlalchemy.dialects.contract import Change
    from celery_laravel.stores.sqlalchemy.engine import Database


class SQLFailedJobStore:
    """A `FailedJobStore` in a table that numbers its rows in the order of arrival."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.tables.failed_jobs

    def record(self, job: FailedJob) -> bool:
        values = {
            "id": job.id,
            "connection": job.connection,
            "queue": job.queue,
            "task": job.task,
            "args_repr": job.args_repr,
            "kwargs_repr": job.kwargs_repr,
            "exception": job.exception,
            "traceback": job.traceback,
            "failed_at": as_microseconds(job.failed_at),
            "attempts": job.attempts,
            "batch_id": job.batch_id,
            "payload": dict(job.payload),
        }
        insertion = self._database.dialect.insert_new(self._table).values(values)
        record = self._database.dialect.counted(insertion)
        # Not repeatable, as is `forget`: the answer says whether it was this call, and who gets it acts on it.
        if self._database.single(lambda connection: record(connection, {}) > 0, repeatable=False):
            return True
        claimed = delete(self._table).where(self._table.c.id == job.id, self._table.c.claimed_by.is_not(None))

        def replace(connection: Connection) -> bool:
            return connection.execute(claimed).rowcount > 0 and record(connection, {}) > 0

        return self._database.transaction(replace)

    def find(self, job_id: str) -> FailedJob | None:
        found = self._all(select(self._table).where(self._table.c.id == job_id))
        return found[0] if found else None

    def all(self, *, queue: str | None = None, limit: int | None = None) -> list[FailedJob]:
        table = self._table.c
        statement = select(self._table).order_by(table.failed_at.desc(), table.number.desc())
        if queue is not None:
            statement = statement.where(table.queue == queue)
        return self._all(statement if limit is None else statement.limit(limit))

    def count(self, *, queue: str | None = None) -> int:
        return self._database.count(self._table, queue)

    def claim(self, job_id: str, *, owner: str, lease: timedelta) -> FailedJob | None:
        parameters = giving(id=job_id, owner=owner, lease=lasting(lease))
        row = self._database.single(lambda connection: self._claim(connection, parameters))
        return None if row is None else _job(row)

    def release(self, job_id: str, *, owner: str) -> bool:
        parameters = giving(id=job_id, owner=owner)
        return self._database.single(lambda connection: connection.execute(self._release, parameters).rowcount) > 0

    def interrupted(self, batch_id: str) -> list[FailedJob]:
        table = self._table.c
        is_one = (table.batch_id == batch_id, table.claimed_until <= self._database.dialect.now)
        return self._all(select(self._table).where(*is_one).order_by(table.failed_at, table.number))

    def forget(self, job_id: str, *, owner: str | None = None) -> bool:
        statement = delete(self._table).where(self._table.c.id == job_id)
        if owner is not None:
            statement = statement.where(self._table.c.claimed_by == owner)
        return self._database.single(partial(_removed, statement), repeatable=False) > 0

    def flush(self, *, before: datetime | None = None) -> int:
        statement = delete(self._table)
        if before is not None:
            statement = statement.where(self._table.c.failed_at < as_microseconds(before))
        return self._database.single(partial(_removed, statement))

    def _all(self, statement: Select[Any]) -> list[FailedJob]:
        rows = self._database.single(lambda connection: connection.execute(statement).all())
        return [_job(row) for row in rows]

    # -- statements --------------------------------------------------------------------------------
    @cached_property
    def _claim(self) -> Change:
        table, now = self._table.c, self._database.dialect.now
        is_it, owner = table.id == given("id", Identifier()), given("owner", Identifier())
        is_free = or_(table.claimed_by.is_(None), table.claimed_until <= now, table.claimed_by == owner)
        changes = {table.claimed_by: owner, table.claimed_until: now + given("lease")}
        statement = update(self._table).where(is_it, is_free).values(changes)
        where = is_it & (table.claimed_by == owner)
        return self._database.dialect.change(statement, columns=list(table), where=where)

    @cached_property
    def _release(self) -> Update:
        table = self._table.c
        is_it = (table.id == given("id", Identifier()), table.claimed_by == given("owner", Identifier()))
        return update(self._table).where(*is_it).values(claimed_until=self._database.dialect.now)


def _removed(statement: Delete, connection: Connection) -> int:
    return connection.execute(statement).rowcount


def _job(row: Row[Any]) -> FailedJob:
    return FailedJob(
        id=row.id,
        connection=row.connection,
        queue=row.queue,
        task=row.task,
        args_repr=row.args_repr,
        kwargs_repr=row.kwargs_repr,
        exception=row.exception,
        traceback=row.traceback,
        failed_at=as_datetime(row.failed_at),
        attempts=row.attempts,
        batch_id=row.batch_id,
        payload=row.payload,
        claimed_until=known_instant(row.claimed_until),
    )
