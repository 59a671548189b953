"""The broker on PostgreSQL: any number of machines, told of new messages by ``NOTIFY``."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from celery_laravel.errors import ConfigurationError
from celery_laravel.transport.database.dialects.selection import in_one_statement, leased, next_messages, returned
from celery_laravel.transport.database.dialects.server import ServerDialect
from celery_laravel.transport.database.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection
    from sqlalchemy.dialects.postgresql import Insert

    from celery_laravel.transport.database.dialects.selection import Fetch
    from celery_laravel.transport.database.notices import Notices
    from celery_laravel.transport.database.tables import Tables

_NOTIFY = sa.text("SELECT pg_notify(:channel, :name)")
_REFUSALS = (
    (("FATAL", "database", "does not exist"), "3D000"),
    (("FATAL", "role", "does not exist"), "28000"),
    (("FATAL", "pg_hba.conf"), "28000"),
    (("FATAL", "password authentication failed"), "28P01"),
    (("no password supplied",), "28P01"),
    (("FATAL", "too many"), "53300"),
    (("FATAL", "remaining connection slots"), "53300"),
    (("FATAL", "starting up"), "57P03"),
    (("FATAL", "shutting down"), "57P03"),
)
_POOLER = (
    "A pooler lends connections by the transaction. Let it know of prepared statements (PgBouncer 1.21: "
    "max_prepared_statements), or add prepare_threshold=none to the broker URL"
)
# A connection whose other end has vanished without a word is given up after a minute, not after two hours.
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}


class PostgreSQLDialect(ServerDialect):
    """Serve ``postgresql+psycopg://…``; PostgreSQL 12 or later."""

    name = "postgresql"
    extra = "postgresql"
    has_notices = True
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
    # Constant within a statement, so that an index can be searched for it.
    now: ColumnElement[float] = sa.cast(sa.extract("epoch", sa.func.statement_timestamp()), sa.Double)
    passing = frozenset({"40001", "40P01"})  # serialisation, deadlock
    lacking = frozenset({"42P01", "42703", "3F000"})  # no such table, column, schema
    advice: ClassVar[Mapping[Any, tuple[bool, str]]] = {
        "55P03": (
            True,
            (
                "A lock was held for more than {busy_timeout:g} s (the transport option busy_timeout). Look in "
                "pg_stat_activity for a migration or a long transaction; raise busy_timeout if it is meant"
            ),
        ),
        "57P01": (True, "The server ended the connection"),
        "57P03": (True, "The server is starting or stopping"),
        "53300": (
            True,
            (
                "Every process that publishes has a connection, and every worker two. Raise max_connections, "
                "or put a pooler in between"
            ),
        ),
        "53100": (True, "Free some space on the server's disk; nothing of this change was stored"),
        "25006": (True, "The server is a replica, or is being one. Let the broker URL lead to the primary"),
        "28P01": (False, "Correct the password in the broker URL"),
        "28000": (False, "Correct the user in the broker URL, or let it in by pg_hba.conf"),
        "3D000": (False, "Create the database, or correct the broker URL"),
        "42501": (False, "Grant this user SELECT, INSERT, UPDATE and DELETE on the broker's tables"),
        "26000": (False, _POOLER),  # no such prepared statement
        "42P05": (False, _POOLER),  # there is one already
    }

    def arguments(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Waiting for a connection has an end, and so has waiting for an answer of a server that is gone."""
        given = {"connect_timeout": 10, **_KEEPALIVE}
        arguments: dict[str, Any] = {name: value for name, value in given.items() if name not in query}
        if "prepare_threshold" in query:
            arguments["prepare_threshold"] = _threshold(query["prepare_threshold"])
        return arguments

    def prepare(self, connection: Connection) -> None:
        """Wait for locks as long as the options say."""
        connection.exec_driver_sql(f"SET lock_timeout = {int(self.options.busy_timeout * 1000)}")

    def descriptor(self, driver_connection: Any) -> int | None:
        """As the base says."""
        return None if driver_connection.closed else int(driver_connection.fileno())

    def code(self, error: BaseException) -> Any:
        """The SQLSTATE; libpq keeps that of a refused connection to itself, but for the server's words."""
        if (state := getattr(error, "sqlstate", None)) is not None:
            return state
        said = str(error)
        return next((state for words, state in _REFUSALS if all(word in said for word in words)), None)

    def reserving(self, tables: Tables) -> Fetch:
        """As the contract says, in one statement."""
        messages = tables.messages
        return in_one_statement(
            messages.update().where(self._next(tables)).values(leased(tables, self.now)).returning(*returned(tables))
        )

    def taking(self, tables: Tables) -> Fetch:
        """As the contract says, in one statement."""
        return in_one_statement(tables.messages.delete().where(self._next(tables)).returning(*returned(tables)))

    def _next(self, tables: Tables) -> ColumnElement[bool]:
        # An array is made once and sought by the key. With IN the planner, which does not know how many rows
        # LIMIT leaves, may read the whole table instead, or select, and lock, more than once.
        chosen = next_messages(tables, self.now, skip_locked=True).scalar_subquery()
        return tables.messages.c.id == sa.any_(sa.func.array(chosen, type_=sa.ARRAY(sa.BigInteger)))

    def insert_or_update(self, table: str, tables: Tables, changes: tuple[str, ...]) -> Insert:
        """As the contract says, with PostgreSQL's upsert."""
        target: sa.Table = getattr(tables, table)
        statement = insert(target)
        keys = [column.name for column in target.primary_key]
        return statement.on_conflict_do_update(
            index_elements=keys, set_={name: statement.excluded[name] for name in changes}
        )

    # -- notices

    def notify(self, connection: Connection, tables: Tables, queues: Sequence[str]) -> None:
        """As the contract says, in a transaction of its own.

        In that of the messages it would make all that publish wait for one
        another's flush to disk: PostgreSQL commits transactions that notify one
        by one.
        """
        for queue in queues:
            connection.execute(_NOTIFY, {"channel": _channel(tables), "name": queue})

    def listen(self, tables: Tables) -> Notices:
        """As the contract says."""
        connection = self.open_for_migration()
        try:
            connection.exec_driver_sql(f'LISTEN "{_channel(tables)}"')
        except DBAPIError as error:
            connection.close()
            raise self.explain(error) from error
        return _PostgreSQLNotices(connection)

    # -- migrations

    @contextmanager
    def migrating(self, connection: Connection, tables: Tables) -> Iterator[None]:
        """As the contract says: all of it is one transaction, under an advisory lock."""
        connection.exec_driver_sql(self.begin)
        try:
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(tables.schema.name))))
            yield
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            if not connection.invalidated:
                connection.exec_driver_sql("ROLLBACK")
            raise


class _PostgreSQLNotices:
    """What comes in on a connection that listens, read with psycopg's own means and without waiting."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        driver: Any = connection.connection.driver_connection
        self._driver = driver
        self._early: list[str] = []  # what came in beside the answer to a statement
        driver.add_notify_handler(lambda notify: self._early.append(notify.payload))

    def fileno(self) -> int:
        return int(self._driver.fileno())

    def read(self) -> list[str]:
        import psycopg

        try:
            self._driver.pgconn.consume_input()
        except psycopg.Error as error:
            raise BrokerUnavailableError(f"The connection that listens is lost: {error}") from error
        names, self._early[:] = self._early[:], ()
        while (notice := self._driver.pgconn.notifies()) is not None:
            names.append(notice.extra.decode("utf-8", "replace"))
        return names

    def close(self) -> None:
        try:
            self._connection.close()
        except DBAPIError as error:
            raise BrokerUnavailableError(str(error.orig)) from error


def _channel(tables: Tables) -> str:
    return tables.messages.name


def _threshold(given: str) -> int | None:
    if given.lower() == "none":
        return None
    try:
        return int(given)
    except ValueError as error:
        raise ConfigurationError(
            f"prepare_threshold is {given!r} in the broker URL: give a number of executions, or none"
        ) from error
