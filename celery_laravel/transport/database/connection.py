"""The one connection a process has to a broker's database, shared by its threads and left behind by its forks."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from celery_laravel.transport.database.dialects import dialect_for
from celery_laravel.transport.database.errors import BrokerUnavailableError
from celery_laravel.transport.database.tables import Tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from celery_laravel.transport.database.options import BrokerOptions


class Database:
    """A broker's database as one process sees it.

    All threads use one connection, one after the other: a database of this
    kind has a single writer, so a second connection would wait for the first
    anyway, and would wait by sleeping. A fork waits for the statement that is
    under way and gives the child no part in the connection; the child opens
    its own when it needs one.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self.options = options
        self.dialect = dialect_for(options)
        self.tables = Tables(options.table_prefix)
        self.users = 0
        self.listeners: list[Callable[[], None]] = []
        self.lock = threading.RLock()
        self._connection: Connection | None = None
        self._published = 0
        with _registry_lock:
            _all_databases.add(self)

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Lend the connection, opening it first if need be; each statement is a transaction of its own.

        Raises:
            BrokerUnavailableError: Trying again may help.
            BrokerUnusableError: Somebody has to mend something first.
        """
        with self.lock:
            connection = self._connection
            if connection is None or connection.closed:
                connection = self._connection = self.dialect.connect(self.tables)
            try:
                self.dialect.check(connection)
                yield connection
            except DBAPIError as error:
                self._drop()
                raise self.dialect.explain(error) from error
            except BrokerUnavailableError:
                self._drop()
                raise

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

    def announce(self) -> None:
        """Make every look at `version` in this process see a change: the database reports only those of others."""
        self._published += 1
        for listener in tuple(self.listeners):
            listener()

    def version(self) -> tuple[int, int]:
        """Something that differs from its last value once there may be new messages."""
        published = self._published
        with self.session() as connection:
            return published, self.dialect.version(connection)

    @property
    def published(self) -> int:
        """The part of `version` that costs nothing to look at."""
        return self._published

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self.lock:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Its change counter ends with it: the next one's may begin at the very same number.
            self._published += 1
            with suppress(DBAPIError):  # it is given up anyhow, and the error that led here says more
                connection.close()

    def leave_behind(self) -> None:
        """In a forked child: forget the parent's connection without closing it.

        Closing SQLite's files in a child takes part in the parent's locks and
        may clear its write-ahead log away, so the object is kept for good.
        """
        self.lock = threading.RLock()
        if self._connection is not None:
            _left_behind.append(self._connection)
            self._connection = None

    def _roll_back(self, connection: Connection) -> None:
        try:
            connection.exec_driver_sql("ROLLBACK")
        except DBAPIError:
            # SQLite has ended the transaction by itself after some errors. If not, only a new connection helps.
            self._drop()


_databases: dict[BrokerOptions, Database] = {}
# Also those that have been given back: a late acknowledgement opens such a one again.
_all_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_left_behind: list[Connection] = []
_registry_lock = threading.RLock()
_held_for_fork: list[threading.RLock] = []


def open_database(options: BrokerOptions) -> Database:
    """The process's `Database` for these options, connected; call `close_database` once for each call.

    Raises:
        BrokerUnavailableError: Trying again may help.
        BrokerUnusableError: Somebody has to mend something first.
    """
    with _registry_lock:
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
    with _registry_lock:
        database.users -= 1
        if database.users <= 0:
            _databases.pop(database.options, None)
            database.close()


def _before_fork() -> None:
    # SQLite's own mutexes are held inside a statement: a child forked then could never use SQLite.
    _registry_lock.acquire()
    for database in tuple(_all_databases):
        database.lock.acquire()
        _held_for_fork.append(database.lock)


def _after_fork_in_parent() -> None:
    while _held_for_fork:
        _held_for_fork.pop().release()
    _registry_lock.release()


def _after_fork_in_child() -> None:
    _held_for_fork.clear()
    for database in tuple(_all_databases):
        database.leave_behind()
    _registry_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
