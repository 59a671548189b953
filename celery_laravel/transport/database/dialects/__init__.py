"""What a database has to offer to serve as a broker, and the databases that do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from celery_laravel.errors import ConfigurationError
from celery_laravel.transport.database.dialects.mysql import MySQLDialect
from celery_laravel.transport.database.dialects.postgresql import PostgreSQLDialect
from celery_laravel.transport.database.dialects.sqlite import SQLiteDialect

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import ColumnElement, Connection, Insert
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import DBAPIError

    from celery_laravel.transport.database.dialects.selection import Fetch
    from celery_laravel.transport.database.errors import DatabaseBrokerError
    from celery_laravel.transport.database.notices import Notices
    from celery_laravel.transport.database.options import BrokerOptions
    from celery_laravel.transport.database.tables import Tables


class Dialect(Protocol):
    """The parts of the broker that differ from one database to the next.

    Connections are in autocommit mode: one statement is one transaction unless
    it stands between ``begin`` and ``COMMIT``.
    """

    begin: str
    options: BrokerOptions
    polling_interval: float
    """Seconds between two looks for new messages, where the options do not say."""
    makes_its_tables: bool
    """Whether connecting makes the tables; else somebody has to migrate."""
    reports_changes: bool
    """Whether `version` stands still for as long as nobody has committed."""
    has_notices: bool
    """Whether `notify` is heard by who listens."""
    now: ColumnElement[float]
    """The instant of a statement in seconds since the epoch, by the clock that all users of this database share."""

    def connect(self, tables: Tables) -> Connection:
        """Open a connection to the broker's tables, making them where that is this database's custom.

        Raises:
            BrokerUnusableError: It cannot work until somebody mends it.
            BrokerUnavailableError: It may work later.
        """

    def check(self, connection: Connection) -> None:
        """Raise if ``connection`` no longer leads to the database of that URL; called before every use."""

    def is_stale(self, connection: Connection) -> bool:
        """Whether the server has closed ``connection`` meanwhile; called before every use, so it asks nobody."""

    def socket(self, connection: Connection) -> int | None:
        """The descriptor of a connection's socket, if it has one."""

    def leave_behind(self, connection: Connection) -> None:
        """In a forked child: have no part in ``connection``, which the parent goes on with."""

    def version(self, connection: Connection) -> int:
        """A number that changes when there may be new messages; cheap enough to ask all the time."""

    def reserving(self, tables: Tables) -> Fetch:
        """A function that leases the next messages, in one atomic step, and returns them.

        Parameters: ``queue_name``, ``count``, ``lease_token`` and ``lease_time`` in seconds.
        Returns id, priority, ready_at, acquired, returned and payload.
        """

    def taking(self, tables: Tables) -> Fetch:
        """A function that removes the next messages and returns them; parameters and columns as `reserving`."""

    def insert_or_update(self, table: str, tables: Tables, changes: tuple[str, ...]) -> Insert:
        """An insert into ``queues`` or ``bindings`` that sets ``changes`` on a row that is there already."""

    def notify(self, connection: Connection, tables: Tables, queues: Sequence[str]) -> None:
        """Tell whoever listens that these queues have new messages; only where there are notices."""

    def listen(self, tables: Tables) -> Notices:
        """Open a connection on which `notify` is heard; only where there are notices."""

    def open_for_migration(self) -> Connection:
        """Open a connection to the database, whether the broker's tables are there or not."""

    def migrating(self, connection: Connection, tables: Tables) -> AbstractContextManager[None]:
        """Keep other migrations of this broker out, and store what is done at the end."""

    def explain(self, error: DBAPIError) -> DatabaseBrokerError:
        """Say what ``error`` means and what to do about it."""


_DIALECTS: dict[str, tuple[str, type[SQLiteDialect | PostgreSQLDialect | MySQLDialect]]] = {
    "sqlite": ("pysqlite", SQLiteDialect),
    "postgresql": ("psycopg", PostgreSQLDialect),
    "mysql": ("pymysql", MySQLDialect),
    "mariadb": ("pymysql", MySQLDialect),
}
"""The drivers that are served; also those that are used where the URL names none."""


def dialect_for(options: BrokerOptions) -> Dialect:
    """Find the dialect of a URL.

    Raises:
        ConfigurationError: The URL cannot be read, or no dialect serves it.
    """
    try:
        url = make_url(options.url)
    except ArgumentError as error:
        raise ConfigurationError(
            "The broker URL cannot be read. Write database+sqlite:////absolute/path.db, "
            "database+sqlite:///relative/path.db, database+postgresql+psycopg://user:password@host/database "
            "or database+mysql+pymysql://user:password@host/database"
        ) from error
    name, _, driver = url.drivername.partition("+")
    served, dialect = _DIALECTS.get(name, (None, None))
    if dialect is None or driver not in {"", served}:
        raise ConfigurationError(
            f"The database broker does not work on {url.drivername!r}. Use database+sqlite:///path.db, "
            "database+postgresql+psycopg://user:password@host/database "
            "or database+mysql+pymysql://user:password@host/database (MariaDB too)"
        )
    return dialect(options, _with_driver(url, name, served))


def _with_driver(url: URL, name: str, driver: str | None) -> URL:
    # SQLAlchemy's dialect of MySQL speaks to both.
    return url.set(drivername=f"{'mysql' if name == 'mariadb' else name}+{driver}") if name != "sqlite" else url
