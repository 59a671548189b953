"""What a database has to offer to serve as a broker, and the databases that do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from celery_laravel.errors import ConfigurationError
from celery_laravel.transport.database.dialects.sqlite import SQLiteDialect

if TYPE_CHECKING:
    from sqlalchemy import Connection, Executable, Insert
    from sqlalchemy.exc import DBAPIError

    from celery_laravel.transport.database.errors import DatabaseBrokerError
    from celery_laravel.transport.database.options import BrokerOptions
    from celery_laravel.transport.database.tables import Tables


class Dialect(Protocol):
    """The parts of the broker that differ from one database to the next.

    Connections are in autocommit mode: one statement is one transaction unless
    it stands between ``begin`` and ``COMMIT``.
    """

    begin: str
    options: BrokerOptions

    def connect(self, tables: Tables) -> Connection:
        """Open a connection, creating the tables where that is this database's custom.

        Raises:
            BrokerUnusableError: It cannot work until somebody mends it.
            BrokerUnavailableError: It may work later.
        """

    def check(self, connection: Connection) -> None:
        """Raise if ``connection`` no longer leads to the database of that URL; called before every use."""

    def version(self, connection: Connection) -> int:
        """A number that changes when another connection has committed; cheap enough to ask all the time."""

    def reserve(self, tables: Tables) -> Executable:
        """One statement that leases the next messages and returns them.

        Parameters: ``queue_name``, ``now``, ``until``, ``lease_token``, ``count``.
        Returns id, priority, ready_at, acquired, returned and payload.
        """

    def take(self, tables: Tables) -> Executable:
        """One statement that removes the next messages and returns them; parameters and columns as `reserve`."""

    def insert_or_update(self, table: str, tables: Tables, changes: tuple[str, ...]) -> Insert:
        """An insert into ``queues`` or ``bindings`` that sets ``changes`` on a row that is there already."""

    def explain(self, error: DBAPIError) -> DatabaseBrokerError:
        """Say what ``error`` means and what to do about it."""


def dialect_for(options: BrokerOptions) -> Dialect:
    """Find the dialect of a URL.

    Raises:
        ConfigurationError: The URL cannot be read, or no dialect serves it.
    """
    try:
        url = make_url(options.url)
    except ArgumentError as error:
        raise ConfigurationError(
            "The broker URL cannot be read. Write database+sqlite:////absolute/path.db "
            "or database+sqlite:///relative/path.db"
        ) from error
    if url.get_backend_name() != "sqlite" or url.get_driver_name() != "pysqlite":
        raise ConfigurationError(
            f"The database broker does not work on {url.drivername!r} yet. Use database+sqlite:///path.db here, "
            "or a Redis or RabbitMQ broker where several machines share the work"
        )
    return SQLiteDialect(options, url)
