"""The one connection a process has to a broker's database, shared by its threads and left behind by its forks."""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from kombu.log import get_logger
from sqlalchemy.exc import DBAPIError

from celery_laravel.stores.watch import Watch
from celery_laravel.transport.database.dialects import dialect_for
from celery_laravel.transport.database.errors import (
    BrokerContendedError,
    BrokerUnavailableError,
)
from celery_laravel.transport.database.forks import all_databases, left_behind, registry_lock
from celery_laravel.transport.database.news import News
from celery_laravel.transport.database.tables import Tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from celery_laravel.transport.database.options import BrokerOptions

    T = TypeVar("T")

logger = get_logger(__name__)

# How often a change that was undone for the sake of others is made again.
MOST_LOSSES = 5
# Seconds without an answer, on top of those for which a lock is waited for, after which a server is taken for gone.
ANSWER_TIMEOUT = 60.0


class Database:
    """A broker's database as one process sees it.

    All threads use one connection, one after the other: SQLite has a single
    writer, so a second connection would wait for the first anyway, and would
    wait by sleeping; a server's connections are dear, and a statement of the
    broker's is short. A fork waits for the statement that is under way and
    gives the child no part in the connection; the child opens its own when it
    needs one.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self.options = options
        self.dialect = dialect_for(options)
        self.tables = Tables(options.table_prefix)
        self.users = 0
        self.lock = threading.RLock()
        self.news = News(self)
        self._watch = Watch(options.busy_timeout + ANSWER_TIMEOUT)
        self._connection: Connection | None = None
        with registry_lock:
            all_databases.add(self)

    # -- running

    def run(self, work: Callable[[Connection], T], *, as_one: bool = False) -> T:
        """Do ``work``, each of its statements a transaction of its own, or with ``as_one`` all of them one.

        It is done again, a few times, when it lost against others that wanted
        the same rows and has been undone. It is not when the connection was
        lost, as then nobody knows whether it has been done.

        Raises:
            BrokerUnavailableError: Trying again may help.
            BrokerUnusableError: Somebody has to mend something first.
        """
        losses = 0
        while True:
            try:
                with self.transaction() if as_one else self.session() as connection:
                    return work(connection)
            except BrokerContendedError:
                losses += 1
                if losses > MOST_LOSSES:
                    raise
                time.sleep(random.uniform(0.2, 1.0) * 0.005 * 2**losses)

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Lend the connection, opening it first if need be; each statement is a transaction of its own.

        Raises:
            BrokerUnavailableError: Trying again may help.
            BrokerUnusableError: Somebody has to mend something first.
        """
        with self.lock:
            try:
                connection = self._ready_connection()
            except BrokerUnavailableError as error:
                error.may_be_done = False
                raise
            try:
                self.dialect.check(connection)
                with self._watch.over(self.dialect.socket(connection)):
                    yield connection
            except DBAPIError as error:
                explained = self.dialect.explain(error)
                if not isinstance(explained, BrokerContendedError):
                    self._drop()
                raise explained from error
            except BrokerContendedError:
                raise
            except BaseException:
                # A time limit's signal, say: the driver may be in the middle of an answer.
                self._drop()
                raise

    def _ready_connection(self) -> Connection:
        connection = self._connection
        if connection is not None and (
            connection.closed or connection.invalidated or self.dialect.is_stale(connection)
        ):
            self._drop()
        if self._connection is None:
            connection = self.dialect.connect(self.tables)
            try:
                self._settle(connection)
            except DBAPIError as error:
                connection.close()
                raise self.dialect.explain(error) from error
            self._connection = connection
        return self._connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Lend the connection for several statements that are stored together or not at all."""
        with self.session() as connection:
            connection.exec_driver_sql(self.dialect.begin)
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise

    def when_connected(self, work: Callable[[Connection], object]) -> None:
        """Do ``work`` on the next connection that this process makes to this broker; twice must do no harm."""
        _unsettled.setdefault(self.options, []).append(work)

    def _settle(self, connection: Connection) -> None:
        works = _unsettled.get(self.options, [])
        while works:
            works[0](connection)
            del works[0]

    # -- the end

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self.lock:
            self.news.stop()
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self.news.begin_anew()
            with suppress(DBAPIError):  # it is given up anyhow, and the error that led here says more
                if not connection.closed:
                    connection.invalidate()  # closes it without asking for a rollback, which may not be answered
                connection.close()

    def leave_behind(self) -> None:
        """In a forked child: forget the parent's connection without closing it.

        Closing SQLite's files in a child takes part in the parent's locks and
        may clear its write-ahead log away; closing a server's connection ends
        the parent's. So the objects are kept for good.
        """
        self.lock = threading.RLock()
        left_behind.append(self._connection)
        if self._connection is not None:
            self.dialect.leave_behind(self._connection)
        _unsettled.pop(self.options, None)  # the parent's affair
        self._connection = None
        self.news.leave_behind()

    def _roll_back(self, connection: Connection) -> None:
        try:
            if not connection.invalidated:  # nothing is left to roll back on a connection that was lost
                connection.exec_driver_sql("ROLLBACK")
        except DBAPIError:
            # SQLite has ended the transaction by itself after some errors. If not, only a new connection helps.
            self._drop()


_databases: dict[BrokerOptions, Database] = {}
# What is to be done on the next connection, by broker; see `Database.when_connected`.
_unsettled: dict[BrokerOptions, list[Callable[[Connection], object]]] = {}


def open_database(options: BrokerOptions) -> Database:
    """The process's `Database` for these options, connected; call `close_database` once for each call.

    Raises:
        BrokerUnavailableError: Trying again may help.
        BrokerUnusableError: Somebody has to mend something first.
    """
    with registry_lock:
        database = _databases.get(options)
        if database is None:
            database = Database(options)
        with database.session():
            pass
        _databases[options] = database
        database.users += 1
        return database


def close_database(database: Database) -> None:
    """Give a `Database` back; the last one to do so closes its connection."""
    with registry_lock:
        database.users -= 1
        if database.users <= 0:
            _databases.pop(database.options, None)
            database.close()
