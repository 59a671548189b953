"""What the databases that are servers have in common."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from celery_laravel.errors import ConfigurationError
from celery_laravel.stores.drivers import has_something_to_read, said_by
from celery_laravel.transport.database.errors import (
    BrokerContendedError,
    BrokerUnavailableError,
    BrokerUnusableError,
    MissingDependencyError,
)
from celery_laravel.transport.database.schema import check_version
from celery_laravel.transport.database.ticks import Ticks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import URL

    from celery_laravel.transport.database.errors import DatabaseBrokerError
    from celery_laravel.transport.database.notices import Notices
    from celery_laravel.transport.database.options import BrokerOptions
    from celery_laravel.transport.database.tables import Tables

MIGRATE = "Run: celery -A your_app laravel migrate"


class ServerDialect(ABC):
    """A database that several machines reach: its tables are migrated, its clock is the one that counts."""

    begin = "BEGIN"
    polling_interval = 0.1
    makes_its_tables = False
    reports_changes = False
    has_notices = False
    name: ClassVar[str]
    extra: ClassVar[str]
    passing: ClassVar[frozenset[Any]]
    """Codes of errors by which a transaction was undone for the sake of others."""
    lacking: ClassVar[frozenset[Any]]
    """Codes of errors that say that a table or a column is not there."""
    advice: ClassVar[Mapping[Any, tuple[bool, str]]]
    """For other codes: whether trying again can help, and what to do."""

    def __init__(self, options: BrokerOptions, url: URL) -> None:
        if not url.database:
            raise ConfigurationError(
                f"The broker URL database+{url.render_as_string()} names no database. "
                f"Write database+{url.drivername}://user:password@host/database"
            )
        self.options = options
        self.shown = url.render_as_string(hide_password=True)
        self._url = url
        self._engine: Engine | None = None
        self._ticks = Ticks(options.polling_interval or self.polling_interval)

    # -- connecting

    def connect(self, tables: Tables) -> Connection:
        """As the contract says; the tables have to be there."""
        connection = self.open_for_migration()
        try:
            check_version(connection, tables, self.shown, remedy=MIGRATE)
        except DBAPIError as error:
            connection.close()
            raise self.explain(error) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def open_for_migration(self) -> Connection:
        """As the contract says."""
        if self._engine is None:
            self._engine = self._open_engine()
        try:
            connection = self._engine.connect()
        except DBAPIError as error:
            raise self.explain(error) from error
        try:
            self.prepare(connection)
        except DBAPIError as error:
            connection.close()
            raise self.explain(error) from error
        return connection

    def _open_engine(self) -> Engine:
        try:
            return sa.create_engine(
                self._url,
                isolation_level="AUTOCOMMIT",
                poolclass=NullPool,
                pool_reset_on_return=None,  # each use ends with a commit or a rollback, or the connection is dropped
                connect_args=self.arguments(self._url.query),
                hide_parameters=True,  # they hold people's data, and an error's text ends in logs
            )
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"The broker {self.shown} needs the module {error.name!r}. "
                f"Install it with: pip install 'celery-laravel[{self.extra}]'"
            ) from error

    @abstractmethod
    def arguments(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments for the driver's ``connect`` beside those in the URL's query."""

    @abstractmethod
    def prepare(self, connection: Connection) -> None:
        """Set up a new connection."""

    @abstractmethod
    def descriptor(self, driver_connection: Any) -> int | None:
        """The socket of a connection of the driver's, if it has one."""

    @abstractmethod
    def code(self, error: BaseException) -> Any:
        """The code of a driver's error, or None."""

    # -- in use

    def check(self, connection: Connection) -> None:  # noqa: B027 - there is nothing to override
        """Nothing: a server's database does not change behind its connection."""

    def is_stale(self, connection: Connection) -> bool:
        """As the contract says: a server that restarts, or ends a session, closes the socket, and that can be seen.

        So the statement that comes next goes to a new connection, instead of
        failing without anybody knowing whether it has been done.
        """
        descriptor = self.socket(connection)
        return descriptor is None or has_something_to_read(descriptor)

    def socket(self, connection: Connection) -> int | None:
        """As the contract says."""
        return self.descriptor(connection.connection.driver_connection)

    def leave_behind(self, connection: Connection) -> None:
        """Close the child's copy of the socket without a word to the server.

        A server ends a session, and gives back the locks of a killed process,
        only when the last copy is closed. Something else is put in its place,
        so that nobody gets that number whom the driver could then talk to.
        """
        if connection.closed or connection.invalidated:
            return
        descriptor = self.descriptor(connection.connection.driver_connection)
        if descriptor is not None:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, descriptor, inheritable=False)
            os.close(nothing)

    def version(self, connection: Connection) -> int:
        """As the contract says: nobody tells of changes, so it changes each polling interval."""
        return self._ticks.now()

    def notify(self, connection: Connection, tables: Tables, queues: Sequence[str]) -> None:
        """Not here, unless a database brings it."""
        raise NotImplementedError

    def listen(self, tables: Tables) -> Notices:
        """Not here, unless a database brings it."""
        raise NotImplementedError

    # -- errors

    def explain(self, error: DBAPIError) -> DatabaseBrokerError:
        """As the contract says, by the code of the error and, where it has none, by its kind."""
        original = error.orig or error
        code, reason = self.code(original), said_by(original).rstrip(".?")
        said = f"The broker's database {self.shown}: {reason}. "
        if code in self.passing:
            return BrokerContendedError(said + "The change was undone for the sake of others, several times")
        if code in self.lacking:
            return BrokerUnusableError(said + f"The broker's tables are not there, or are older ones. {MIGRATE}")
        if code in self.advice:
            retry, advice = self.advice[code]
            text = said + advice.format(busy_timeout=self.options.busy_timeout)
            return BrokerUnavailableError(text) if retry else BrokerUnusableError(text)
        if isinstance(error, sa.exc.DataError | sa.exc.IntegrityError | sa.exc.ProgrammingError):
            return BrokerUnusableError(said + "Trying again will not help")
        return BrokerUnavailableError(said + "Is the server running, and is the broker URL right?")
