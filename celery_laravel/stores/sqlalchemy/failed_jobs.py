"""Failed jobs in an SQL database."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select

from celery_laravel import clock
from celery_laravel.stores.records import FailedJob
from celery_laravel.stores.sqlalchemy.columns import microseconds

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection, Delete, Row, Select

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
            "failed_at": microseconds(job.failed_at.timestamp()),
            "attempts": job.attempts,
            "batch_id": job.batch_id,
            "payload": dict(job.payload),
        }
        insertion = self._database.dialect.insert_new(self._table).values(values)
        record = self._database.dialect.counted(insertion)
        # Not repeatable, as is `forget`: the answer says whether it was this call, and who gets it acts on it.
        return self._database.single(lambda connection: record(connection, {}) > 0, repeatable=False)

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

    def forget(self, job_id: str) -> bool:
        statement = delete(self._table).where(self._table.c.id == job_id)
        return self._database.single(partial(_removed, statement), repeatable=False) > 0

    def flush(self, *, before: datetime | None = None) -> int:
        statement = delete(self._table)
        if before is not None:
            statement = statement.where(self._table.c.failed_at < microseconds(before.timestamp()))
        return self._database.single(partial(_removed, statement))

    def _all(self, statement: Select[Any]) -> list[FailedJob]:
        rows = self._database.single(lambda connection: connection.execute(statement).all())
        return [_job(row) for row in rows]


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
        failed_at=clock.as_datetime(row.failed_at / 1_000_000),
        attempts=row.attempts,
        batch_id=row.batch_id,
        payload=row.payload,
    )
