"""PostgreSQL."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Text, cast, extract, func, literal_column, select
from sqlalchemy.dialects import postgresql

from celery_laravel.stores.sqlalchemy.dialects.on_conflict import OnConflict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Connection, Table
    from sqlalchemy.engine import URL


class PostgreSQL(OnConflict):
    """PostgreSQL. A statement on its own commits by itself: one round trip."""

    name = "postgresql"
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
    snapshot = ("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",)
    _PASSING = frozenset({"40001", "40P01", "55P03"})  # serialisation, deadlock, lock not available
    _LACKING = frozenset({"42P01", "42703"})  # undefined table, undefined column

    @property
    def now(self) -> ColumnElement[int]:
        return cast(extract("epoch", func.statement_timestamp()) * literal_column("1000000"), BigInteger)

    def listed(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return cast(func.json_agg(column), Text)  # as text, since drivers read JSON themselves

    def _insert(self, table: Table) -> Any:
        return postgresql.insert(table)

    def arguments(self, url: URL) -> dict[str, Any]:
        return {} if "connect_timeout" in url.query else {"connect_timeout": 10}

    def descriptor(self, connection: Any) -> int | None:
        return int(connection.fileno())

    def is_passing(self, error: BaseException) -> bool:
        return _sqlstate(error) in self._PASSING

    def lacks_tables(self, error: BaseException) -> bool:
        return _sqlstate(error) in self._LACKING

    def is_replica(self, error: BaseException) -> bool:
        return _sqlstate(error) == "25006"  # read-only transaction

    @contextmanager
    def migrating(self, connection: Connection, prefix: str) -> Iterator[None]:
        connection.exec_driver_sql(self.begin)
        key = f"{prefix}_alembic_version"
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(key))))
        yield
        connection.commit()


def _sqlstate(error: BaseException) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)  # psycopg, psycopg2
