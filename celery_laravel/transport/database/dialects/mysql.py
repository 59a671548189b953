"""The broker on MariaDB and MySQL: any number of machines, which look for new messages."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import insert

from celery_laravel.transport.database.dialects.selection import PRIORITIES, leased, ready_of_priority, returned
from celery_laravel.transport.database.dialects.server import ServerDialect
from celery_laravel.transport.database.errors import BrokerUnusableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection
    from sqlalchemy.dialects.mysql import Insert

    from celery_laravel.transport.database.connection import Database
    from celery_laravel.transport.database.dialects.selection import Fetch
    from celery_laravel.transport.database.tables import Tables

_MIGRATION_PATIENCE = 300  # seconds that one migration waits for another
_OLDEST = {True: (10, 6), False: (8, 0)}  # of MariaDB, of MySQL: where SKIP LOCKED came


class MySQLDialect(ServerDialect):
    """Serve ``mysql+pymysql://…``: MariaDB 10.6 or later, MySQL 8 or later, tables in InnoDB."""

    name = "mysql"
    extra = "mysql"
    begin = "START TRANSACTION"
    # Constant within a statement; the zero makes it a double.
    now: ColumnElement[float] = sa.literal_column("(UNIX_TIMESTAMP(NOW(6)) + 0e0)", sa.Double)
    passing = frozenset({1213, 1020})  # deadlock, record has changed
    lacking = frozenset({1146, 1054})  # no such table, unknown column
    advice: ClassVar[Mapping[Any, tuple[bool, str]]] = {
        1205: (
            True,
            (
                "A lock was held for more than {busy_timeout:g} s (the transport option busy_timeout). Look in "
                "information_schema.innodb_trx for a migration or a long transaction; raise busy_timeout if it is meant"
            ),
        ),
        1040: (
            True,
            "Every process that publishes or works has a connection. Raise max_connections",
        ),
        1290: (True, "The server is read-only. Let the broker URL lead to the primary"),
        1836: (True, "The server is read-only. Let the broker URL lead to the primary"),
        1153: (False, "A message is larger than max_allowed_packet. Send a reference instead, or raise it"),
        1045: (False, "Correct user and password in the broker URL"),
        1044: (False, "Grant this user the rights on the database, or correct the broker URL"),
        1142: (False, "Grant this user SELECT, INSERT, UPDATE and DELETE on the broker's tables"),
        1049: (False, "Create the database, or correct the broker URL"),
    }

    def arguments(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Waiting for a connection has an end, and so has waiting for an answer of a server that is gone."""
        waiting = math.ceil(self.options.busy_timeout) + 60
        given = {"connect_timeout": 10, "read_timeout": waiting, "write_timeout": waiting}
        return {name: value for name, value in given.items() if name not in query}

    def prepare(self, connection: Connection) -> None:
        """Count time in UTC, where no hour comes twice; lock rows and not the gaps between them."""
        info = connection.dialect
        version, is_mariadb = info.server_version_info, bool(getattr(info, "is_mariadb", False))
        if version is not None and tuple(version[:2]) < _OLDEST[is_mariadb]:
            raise BrokerUnusableError(
                f"The broker's database {self.shown} is of version {'.'.join(map(str, version))}. "
                "The broker needs MariaDB 10.6 or MySQL 8, for SKIP LOCKED"
            )
        connection.exec_driver_sql(
            "SET SESSION time_zone = '+00:00', sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES'), "
            f"innodb_lock_wait_timeout = {math.ceil(self.options.busy_timeout)}, "
            f"lock_wait_timeout = {math.ceil(self.options.busy_timeout)}"
        )
        connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def descriptor(self, driver_connection: Any) -> int | None:
        """As the base says."""
        socket = getattr(driver_connection, "_sock", None)
        return None if socket is None else int(socket.fileno())

    def code(self, error: BaseException) -> Any:
        """MySQL's number."""
        return error.args[0] if error.args else None

    def reserving(self, tables: Tables) -> Fetch:
        """As the contract says, in a transaction."""
        values = leased(tables, self.now)
        return _Fetch(tables, self.now, tables.messages.update().values(values))

    def taking(self, tables: Tables) -> Fetch:
        """As the contract says, in a transaction."""
        return _Fetch(tables, self.now, tables.messages.delete())

    def insert_or_update(self, table: str, tables: Tables, changes: tuple[str, ...]) -> Insert:
        """As the contract says, with MySQL's upsert."""
        statement = insert(getattr(tables, table))
        return statement.on_duplicate_key_update({name: statement.inserted[name] for name in changes})

    @contextmanager
    def migrating(self, connection: Connection, tables: Tables) -> Iterator[None]:
        """As the contract says. Each change of a table is stored at once, and made again if the rest failed."""
        key = tables.schema.name
        if not connection.scalar(sa.select(sa.func.get_lock(key, _MIGRATION_PATIENCE))):
            raise BrokerUnusableError(
                f"Another migration of {key!r} has held its lock for {_MIGRATION_PATIENCE} s. See what it waits for"
            )
        try:
            yield
        finally:
            if not connection.invalidated:  # the lock ends with its connection
                connection.execute(sa.select(sa.func.release_lock(key)))


class _Fetch:
    """Look, lock, change: MySQL returns no rows from an ``UPDATE``.

    The first look costs an idle worker one statement a queue and locks
    nothing. Of each priority it reads one entry of the index.
    """

    def __init__(self, tables: Tables, now: ColumnElement[float], change: sa.Update | sa.Delete) -> None:
        columns = tables.messages.c
        self._look = sa.select(
            *(sa.exists(ready_of_priority(tables, now, sa.literal_column(str(one))).limit(1)) for one in PRIORITIES)
        )
        # As it will be once the change is made.
        acquired = (columns.acquired + int(isinstance(change, sa.Update))).label("acquired")
        self._lock = (
            ready_of_priority(tables, now, sa.bindparam("of_priority"))
            .with_only_columns(*(acquired if column is columns.acquired else column for column in returned(tables)))
            .with_for_update(skip_locked=True)
        )
        self._change = change.where(columns.id.in_(sa.bindparam("row_ids", expanding=True)))

    def __call__(self, database: Database, values: Mapping[str, Any]) -> Sequence[sa.Row[Any]]:
        queue = {"queue_name": values["queue_name"]}
        looked = database.run(lambda connection: connection.execute(self._look, queue).one())
        priorities = [priority for priority, is_ready in zip(PRIORITIES, looked, strict=True) if is_ready]
        if not priorities:
            return []
        return database.run(lambda connection: self._fetch(connection, priorities, values), as_one=True)

    def _fetch(self, connection: Connection, priorities: Sequence[int], values: Mapping[str, Any]) -> list[sa.Row[Any]]:
        rows: list[sa.Row[Any]] = []
        for priority in priorities:
            left = values["count"] - len(rows)
            if not left:
                break
            asked = {"queue_name": values["queue_name"], "of_priority": priority, "count": left}
            rows.extend(connection.execute(self._lock, asked).all())
        if rows:
            more = {name: values[name] for name in ("lease_token", "lease_time") if name in values}
            connection.execute(self._change, {"row_ids": [row.id for row in rows], **more})
        return rows
