"""MariaDB and MySQL."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, cast, delete, func, insert, literal_column, select, text, update
from sqlalchemy.dialects import mysql

from celery_laravel.errors import ConfigurationError
from celery_laravel.stores.sqlalchemy.dialects.contract import Dialect
from celery_laravel.stores.sqlalchemy.dialects.inserting import filled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Column, ColumnElement, Connection, Insert, Row, Table, Update
    from sqlalchemy.engine import URL

    from celery_laravel.stores.sqlalchemy.dialects.contract import (
        Change,
        Count,
        Parameters,
        Removal,
        Upsert,
        Values,
    )

_GREETING = 10.0  # seconds, as long as PyMySQL waits for a connection
_MIGRATION_PATIENCE = 300  # seconds that one migration waits for another


class MySQL(Dialect):
    """MariaDB and MySQL. The driver opens transactions: a statement costs a COMMIT more, and a transaction no BEGIN."""

    name = "mysql"
    isolation = "READ COMMITTED"  # REPEATABLE READ locks gaps, and two that insert into one are a deadlock
    begin = None
    snapshot = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION WITH CONSISTENT SNAPSHOT")
    begins_by_itself = True
    _PASSING = frozenset({1205, 1213, 1020})  # lock wait timeout, deadlock, record has changed
    _READ_ONLY = frozenset({1290, 1792, 1836})  # --read-only, read-only transaction, read-only mode
    _LACKING = frozenset({1146, 1054})  # no such table, unknown column

    @property
    def now(self) -> ColumnElement[int]:
        return cast(func.unix_timestamp(func.now(text("6"))) * literal_column("1000000"), BigInteger)

    def listed(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.json_arrayagg(column)

    def insert_new(self, table: Table) -> Insert:
        return insert(table).inline().prefix_with("IGNORE")

    def counted(self, insertion: Insert) -> Count:
        return lambda connection, parameters: connection.execute(insertion, parameters).rowcount

    def upsert(
        self,
        table: Table,
        *,
        values: Values,
        changes: Values,
        where: ColumnElement[bool],
        returning: Column[Any],
        is_mostly_new: bool,
    ) -> Upsert:
        key = [column == values[column] for column in table.primary_key]
        insertion = filled(self.insert_new(table), values)
        changed = update(table).where(*key, where).ordered_values(*changes.items())
        read = select(returning).where(*key)

        # Who loses against one who inserts at the same time finds the row there at the next step.
        steps = (insertion, changed) if is_mostly_new else (changed, insertion, changed)

        def run(connection: Connection, parameters: Parameters) -> Any:
            for statement in steps:
                if connection.execute(statement, parameters).rowcount:
                    return connection.execute(read, parameters).scalar()
            return None

        return run

    def put(
        self,
        table: Table,
        *,
        values: Values,
        changes: Values,
        columns: Sequence[ColumnElement[Any]],
        only_if: ColumnElement[bool] | None = None,
    ) -> Change:
        """One statement and a look at the row, which it has locked: an IGNORE would share it, and two be a deadlock."""
        insertion = filled(mysql.insert(table).inline(), values, only_if=only_if)
        changed = insertion.on_duplicate_key_update([(column.name, value) for column, value in changes.items()])
        read = select(*columns).where(*[column == values[column] for column in table.primary_key])

        def run(connection: Connection, parameters: Parameters) -> Row[Any] | None:
            if not connection.execute(changed, parameters).rowcount or not columns:
                return None
            return connection.execute(read, parameters).first()

        return run

    def removal(self, table: Table, *, where: ColumnElement[bool], columns: Sequence[ColumnElement[Any]]) -> Removal:
        found = select(*columns).where(where).order_by(*table.primary_key).with_for_update()
        removed = delete(table).where(where)

        def run(connection: Connection, parameters: Parameters) -> Sequence[Row[Any]]:
            rows = connection.execute(found, parameters).all()
            if rows:
                connection.execute(removed, parameters)
            return rows

        return run

    def change(self, statement: Update, *, columns: Sequence[ColumnElement[Any]], where: ColumnElement[bool]) -> Change:
        read = select(*columns).where(where)

        def run(connection: Connection, parameters: Parameters) -> Row[Any] | None:
            if not connection.execute(statement, parameters).rowcount:
                return None
            return connection.execute(read, parameters).first()

        return run

    def arguments(self, url: URL) -> dict[str, Any]:
        """PyMySQL waits for a server's greeting without end, whatever its ``connect_timeout``."""
        is_ours = url.get_driver_name() == "pymysql" and "read_timeout" not in url.query
        return {"read_timeout": _GREETING} if is_ours else {}

    def prepare(self, connection: Any) -> None:
        """Count time in UTC, where no hour comes twice, and refuse what does not fit rather than cut it."""
        if getattr(connection, "_read_timeout", None) is _GREETING:
            connection._read_timeout = None  # noqa: SLF001  from here on the store says how long to wait
        with connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00', sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')")

    def descriptor(self, connection: Any) -> int | None:
        socket = getattr(connection, "_sock", None)  # PyMySQL's; other drivers find out when they are used
        return None if socket is None else int(socket.fileno())

    def is_passing(self, error: BaseException) -> bool:
        return _mysql_code(error) in self._PASSING

    def lacks_tables(self, error: BaseException) -> bool:
        return _mysql_code(error) in self._LACKING

    def is_replica(self, error: BaseException) -> bool:
        return _mysql_code(error) in self._READ_ONLY

    @contextmanager
    def migrating(self, connection: Connection, prefix: str) -> Iterator[None]:
        key = f"{prefix}_alembic_version"
        if not connection.scalar(select(func.get_lock(key, _MIGRATION_PATIENCE))):
            msg = (
                f"Another migration of {prefix!r} has held its lock for {_MIGRATION_PATIENCE} s. See what it waits for."
            )
            raise ConfigurationError(msg)
        try:
            yield
            connection.commit()
        finally:
            connection.execute(select(func.release_lock(key)))


def _mysql_code(error: BaseException) -> Any:
    return error.args[0] if error.args else None
