"""Where SQLite, PostgreSQL and MySQL differ; everything else is written once.

Each dialect begins transactions in its own way, tells the time, puts a row
where there may be one already, gives a changed row back, and tells errors that
pass from errors that stay.
"""

from __future__ import annotations

import random
import sqlite3
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger, bindparam, cast, extract, func, insert, literal_column, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from celery_laravel import clock
from celery_laravel.errors import ConfigurationError
from celery_laravel.stores.sqlalchemy.columns import microseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Column, ColumnElement, Connection, Insert, Row, Table, Update
    from sqlalchemy.engine import URL

    Parameters = Mapping[str, Any]
    Values = Mapping[Column[Any], ColumnElement[Any]]
    Upsert = Callable[[Connection, Parameters], Any]
    Change = Callable[[Connection, Parameters], "Row[Any] | None"]
    Count = Callable[[Connection, Parameters], int]

_MIGRATION_PATIENCE = 300  # seconds that one migration waits for another


class Dialect(ABC):
    """One back end's ways."""

    name: ClassVar[str]
    isolation: ClassVar[str]
    """With which the engine's connections are opened. Statements on their own are then as many transactions."""
    begin: ClassVar[str | None]
    """Opens a transaction that may write; None where the driver does it."""
    snapshot: ClassVar[Sequence[str]]
    """Opens a transaction whose statements all read the same instant."""
    begins_by_itself: ClassVar[bool] = False
    """Whether a statement on its own is part of a transaction that the client has to commit."""
    makes_its_schema: ClassVar[bool] = False
    """Whether the tables are made when the store is first used."""

    @property
    @abstractmethod
    def now(self) -> ColumnElement[int]:
        """The instant of the statement in microseconds, the same wherever it stands in it."""

    @abstractmethod
    def insert_new(self, table: Table) -> Insert:
        """An INSERT that leaves a row alone that is there already."""

    @abstractmethod
    def counted(self, insertion: Insert) -> Count:
        """Make an INSERT of `insert_new` that tells how many rows were not there."""

    @abstractmethod
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
        """Insert a row, or change the one there is if ``where`` holds of it.

        The call gives ``returning`` of the row as it then stands, or None when
        ``where`` did not hold. ``changes`` are in such an order that one that
        looks at a column comes before the one that changes it.
        """

    @abstractmethod
    def change(self, statement: Update, *, columns: Sequence[ColumnElement[Any]], where: ColumnElement[bool]) -> Change:
        """Make an UPDATE of one row that gives ``columns`` of the changed row back, or None when there was none.

        ``where`` finds the row afterwards.
        """

    @abstractmethod
    def is_passing(self, error: BaseException) -> bool:
        """Whether the transaction was the victim of others, undone, and may be tried again."""

    @abstractmethod
    def lacks_tables(self, error: BaseException) -> bool:
        """Whether a table or a column is not there: the schema has not been made, or is an older one."""

    def arguments(self, url: URL) -> dict[str, Any]:
        """Arguments for the driver's ``connect`` beside those in the URL."""
        return {}

    def prepare(self, connection: Any) -> None:  # noqa: B027  most need nothing
        """Set up a new connection of the driver's."""

    def prepare_database(self, connection: Connection) -> None:  # noqa: B027  most need nothing
        """Set up the database where it makes its tables by itself, once a process."""

    def descriptor(self, connection: Any) -> int | None:
        """The socket of a connection of the driver's, if it has one."""
        return None

    @contextmanager
    def migrating(self, connection: Connection, prefix: str) -> Iterator[None]:
        """Keep other migrations of this prefix out, and commit at the end."""
        yield
        connection.commit()


class _OnConflict(Dialect):
    """What SQLite and PostgreSQL share: ON CONFLICT and RETURNING."""

    isolation = "AUTOCOMMIT"

    @abstractmethod
    def _insert(self, table: Table) -> Any:
        """An INSERT of the dialect's own, which has ON CONFLICT."""

    def insert_new(self, table: Table) -> Insert:
        statement: Insert = self._insert(table).inline().on_conflict_do_nothing()
        return statement

    def counted(self, insertion: Insert) -> Count:
        returning = insertion.returning(*insertion.table.primary_key)  # drivers do not count rows of every INSERT
        return lambda connection, parameters: len(connection.execute(returning, parameters).all())

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
        statement = self.upsert_from(table, values=values, changes=changes, where=where).returning(returning)
        return lambda connection, parameters: connection.execute(statement, parameters).scalar()

    def upsert_from(
        self, table: Table, *, values: Values, changes: Values, where: ColumnElement[bool], source: Any = None
    ) -> Any:
        """The statement of `upsert`; with a ``source``, for as many rows as that has."""
        begun = self._insert(table).inline()
        if source is None:
            begun = begun.values({column.name: value for column, value in values.items()})
        else:
            begun = begun.from_select(list(values), select(*values.values()).select_from(source))
        changed = {c.name: begun.excluded[c.name] if value is values.get(c) else value for c, value in changes.items()}
        return begun.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed, where=where)

    def change(self, statement: Update, *, columns: Sequence[ColumnElement[Any]], where: ColumnElement[bool]) -> Change:
        returning = statement.returning(*columns)
        return lambda connection, parameters: connection.execute(returning, parameters).first()


class SQLite(_OnConflict):
    """SQLite from 3.35, which has RETURNING. The clock is this library's, so that tests may move it."""

    name = "sqlite"
    begin = "BEGIN IMMEDIATE"  # a transaction that reads first and then writes could not be saved by waiting
    snapshot = ("BEGIN",)
    makes_its_schema = True
    _now = bindparam("now", callable_=lambda: microseconds(clock.now()), type_=BigInteger())

    def __init__(self) -> None:
        if sqlite3.sqlite_version_info < (3, 35):
            msg = (
                f"The store needs SQLite 3.35 or newer; this Python has {sqlite3.sqlite_version}. "
                "Use a newer Python, or set 'laravel_store' to a server's URL."
            )
            raise ConfigurationError(msg)

    @property
    def now(self) -> ColumnElement[int]:
        return self._now

    def _insert(self, table: Table) -> Any:
        return sqlite.insert(table)

    def prepare(self, connection: Any) -> None:
        """With a write-ahead log, NORMAL loses no commit when a process dies; a power cut may undo the last ones."""
        connection.execute("PRAGMA synchronous=NORMAL").close()

    def prepare_database(self, connection: Connection) -> None:
        """Have a write-ahead log, with which readers and the writer do not wait for each other.

        The file remembers it. SQLite does not wait by itself for those who
        open the file at the same time; a file system that cannot have it, or a
        file that may not be written, goes without.
        """
        give_up = time.monotonic() + 10
        while connection.exec_driver_sql("PRAGMA journal_mode").scalar() not in {"wal", "memory"}:
            try:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL").close()
            except OperationalError as error:
                if not self.is_passing(error.orig or error) or time.monotonic() > give_up:
                    raise
                time.sleep(random.uniform(0.002, 0.02))
            else:
                return

    def is_passing(self, error: BaseException) -> bool:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None:
            return code & 0xFF in {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED
        return isinstance(error, sqlite3.OperationalError) and " is locked" in str(error)  # before Python 3.11

    def lacks_tables(self, error: BaseException) -> bool:
        return str(error).startswith(("no such table", "no such column")) or "has no column named" in str(error)

    @contextmanager
    def migrating(self, connection: Connection, prefix: str) -> Iterator[None]:
        connection.exec_driver_sql(self.begin)
        yield
        connection.commit()


class PostgreSQL(_OnConflict):
    """PostgreSQL. A statement on its own commits by itself: one round trip."""

    name = "postgresql"
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
    snapshot = ("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",)
    _PASSING = frozenset({"40001", "40P01", "55P03"})  # serialisation, deadlock, lock not available
    _LACKING = frozenset({"42P01", "42703"})  # undefined table, undefined column

    @property
    def now(self) -> ColumnElement[int]:
        return cast(extract("epoch", func.statement_timestamp()) * literal_column("1000000"), BigInteger)

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

    @contextmanager
    def migrating(self, connection: Connection, prefix: str) -> Iterator[None]:
        connection.exec_driver_sql(self.begin)
        key = f"{prefix}_alembic_version"
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(key))))
        yield
        connection.commit()


class MySQL(Dialect):
    """MariaDB and MySQL. The driver opens transactions: a statement costs a COMMIT more, and a transaction no BEGIN."""

    name = "mysql"
    isolation = "READ COMMITTED"  # REPEATABLE READ locks gaps, and two that insert into one are a deadlock
    begin = None
    snapshot = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION WITH CONSISTENT SNAPSHOT")
    begins_by_itself = True
    _PASSING = frozenset({1205, 1213, 1020})  # lock wait timeout, deadlock, record has changed
    _LACKING = frozenset({1146, 1054})  # no such table, unknown column

    @property
    def now(self) -> ColumnElement[int]:
        return cast(func.unix_timestamp(func.now(text("6"))) * literal_column("1000000"), BigInteger)

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
        insertion = self.insert_new(table).values({column.name: value for column, value in values.items()})
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

    def change(self, statement: Update, *, columns: Sequence[ColumnElement[Any]], where: ColumnElement[bool]) -> Change:
        read = select(*columns).where(where)

        def run(connection: Connection, parameters: Parameters) -> Row[Any] | None:
            if not connection.execute(statement, parameters).rowcount:
                return None
            return connection.execute(read, parameters).first()

        return run

    def prepare(self, connection: Any) -> None:
        """Count time in UTC, where no hour comes twice, and refuse what does not fit rather than cut it."""
        with connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00', sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')")

    def descriptor(self, connection: Any) -> int | None:
        socket = getattr(connection, "_sock", None)  # PyMySQL's; other drivers find out when they are used
        return None if socket is None else int(socket.fileno())

    def is_passing(self, error: BaseException) -> bool:
        return _mysql_code(error) in self._PASSING

    def lacks_tables(self, error: BaseException) -> bool:
        return _mysql_code(error) in self._LACKING

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


def _sqlstate(error: BaseException) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)  # psycopg, psycopg2


def _mysql_code(error: BaseException) -> Any:
    return error.args[0] if error.args else None


def dialect_for(url: URL, shown: str) -> Dialect:
    """The dialect of a URL.

    Raises:
        ConfigurationError: No store is kept in such a database.
    """
    known: dict[str, type[Dialect]] = {"sqlite": SQLite, "postgresql": PostgreSQL, "mysql": MySQL}
    dialect = url.get_dialect()
    if dialect.name not in known or dialect.is_async:
        msg = (
            f"The store {shown!r}: an SQL store is kept in SQLite (sqlite:///…), PostgreSQL (postgresql+psycopg://…) "
            "or MariaDB and MySQL (mysql+pymysql://…), with a driver that is not asynchronous."
        )
        raise ConfigurationError(msg)
    return known[dialect.name]()
