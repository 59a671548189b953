"""The broker on SQLite: one file, any number of processes, one machine."""

from __future__ import annotations

import os
import stat
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from celery_laravel import clock
from celery_laravel.errors import ConfigurationError
from celery_laravel.transport.database.dialects.selection import in_one_statement, leased, next_messages, returned
from celery_laravel.transport.database.errors import BrokerUnavailableError, BrokerUnusableError
from celery_laravel.transport.database.schema import check_version, current, upgrade
from celery_laravel.transport.database.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection
    from sqlalchemy.dialects.sqlite import Insert
    from sqlalchemy.engine import URL

    from celery_laravel.transport.database.dialects.selection import Fetch
    from celery_laravel.transport.database.errors import DatabaseBrokerError
    from celery_laravel.transport.database.notices import Notices
    from celery_laravel.transport.database.options import BrokerOptions
    from celery_laravel.transport.database.tables import Tables

_RETRY_INTERVAL = 0.01


class SQLiteDialect:
    """Serve ``sqlite:///path``, in WAL mode, with the tables created on first use."""

    # Taking the write lock at once: a transaction that reads first cannot wait for it, only fail.
    begin = "BEGIN IMMEDIATE"
    polling_interval = 0.04
    makes_its_tables = True
    reports_changes = True
    has_notices = False
    # The machine's clock, which all users of a file have in common; read when the statement is run.
    now: sa.ColumnElement[float] = sa.bindparam(
        "now",
        callable_=lambda: clock.now(),  # noqa: PLW0108 - looked up each time, so that tests can move it
        type_=sa.Double,
    )

    def __init__(self, options: BrokerOptions, url: URL) -> None:
        if url.database in {None, "", ":memory:"} or "mode" in url.query or str(url.database).startswith("file:"):
            raise ConfigurationError(
                "The database broker needs a file that every process can open; an in-memory SQLite database "
                "belongs to one connection. Write database+sqlite:////absolute/path.db, "
                "or use memory:// in tests"
            )
        if url.query:
            raise ConfigurationError(
                f"Unknown option {', '.join(map(repr, url.query))} in the broker URL of a SQLite database. "
                "Known: busy_timeout, polling_interval, queue_order_strategy, synchronous, table_prefix, "
                "visibility_timeout"
            )
        self.options = options
        # Absolute from here on: a worker that changes its directory must not find another file.
        self.path = Path(str(url.database)).absolute()
        self._url = url.set(database=str(self.path))
        self._file: tuple[int, int] | None = None

    def connect(self, tables: Tables) -> Connection:
        """Open the file, in WAL mode; folders are not created, tables are."""
        connection = self.open_for_migration()
        try:
            self._set_up(connection, tables)
            status = self.path.stat()
        except DBAPIError as error:
            connection.close()
            raise self.explain(error) from error
        except BaseException:
            connection.close()
            raise
        self._file = (status.st_dev, status.st_ino)
        return connection

    def _open(self) -> Connection:
        engine = sa.create_engine(
            self._url,
            isolation_level="AUTOCOMMIT",
            poolclass=NullPool,
            # One connection serves all threads of the process, one at a time (see `connection`).
            connect_args={"check_same_thread": False, "timeout": self.options.busy_timeout},
        )
        try:
            return engine.connect()
        except DBAPIError as error:
            raise self.explain(error) from error

    def check(self, connection: Connection) -> None:
        """Notice a file that was removed or replaced: SQLite would go on writing to the old one."""
        try:
            status = os.stat(self.path)  # noqa: PTH116 - before every statement, and half the price of Path.stat
        except FileNotFoundError as error:
            raise BrokerUnavailableError(
                f"The broker's database {self.path} was removed while it was in use. "
                "It is created anew on the next connection; what it held is gone"
            ) from error
        except OSError as error:
            raise BrokerUnavailableError(f"Cannot reach the broker's database {self.path}: {error}") from error
        if (status.st_dev, status.st_ino) != self._file:
            raise BrokerUnavailableError(
                f"The broker's database {self.path} was replaced by another file while it was in use. "
                "To restore a copy, stop workers and publishers first and remove the -wal and -shm beside the old file"
            )

    def version(self, connection: Connection) -> int:
        """SQLite's own counter of other connections' commits, read from shared memory."""
        return int(connection.exec_driver_sql("PRAGMA data_version").scalar_one())

    def is_stale(self, connection: Connection) -> bool:
        """Never: there is no server that could close it."""
        return False

    def socket(self, connection: Connection) -> None:
        """None: it is a file."""

    def leave_behind(self, connection: Connection) -> None:
        """Leave the files open: to close one ends whatever locks this process has on it."""

    def reserving(self, tables: Tables) -> Fetch:
        """As the contract says; an ``UPDATE … RETURNING`` holds the write lock from its first step."""
        messages = tables.messages
        chosen = messages.c.id.in_(next_messages(tables, self.now))
        return in_one_statement(
            messages.update().where(chosen).values(leased(tables, self.now)).returning(*returned(tables))
        )

    def taking(self, tables: Tables) -> Fetch:
        """As the contract says."""
        messages = tables.messages
        chosen = messages.c.id.in_(next_messages(tables, self.now))
        return in_one_statement(messages.delete().where(chosen).returning(*returned(tables)))

    def notify(self, connection: Connection, tables: Tables, queues: Sequence[str]) -> None:
        """Not here: `version` tells of changes."""
        raise NotImplementedError

    def listen(self, tables: Tables) -> Notices:
        """Not here: `version` tells of changes."""
        raise NotImplementedError

    def open_for_migration(self) -> Connection:
        """As the contract says."""
        self._check_folder()
        return self._open()

    @contextmanager
    def migrating(self, connection: Connection, tables: Tables) -> Iterator[None]:
        """As the contract says: one writer at a time is what SQLite has."""
        connection.exec_driver_sql(self.begin)
        try:
            yield
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise

    def insert_or_update(self, table: str, tables: Tables, changes: tuple[str, ...]) -> Insert:
        """As the contract says, with SQLite's upsert."""
        target: sa.Table = getattr(tables, table)
        statement = insert(target)
        if not changes:
            return statement.on_conflict_do_nothing()
        keys = [column.name for column in target.primary_key]
        return statement.on_conflict_do_update(
            index_elements=keys, set_={name: statement.excluded[name] for name in changes}
        )

    def explain(self, error: DBAPIError) -> DatabaseBrokerError:
        """Say what SQLite's message means; messages are the same in all its versions, codes are not reported in all."""
        reason = str(error.orig)
        for part, retry, advice in _ADVICE:
            if part in reason:
                kind = BrokerUnavailableError if retry else BrokerUnusableError
                return kind(
                    f"The broker's database {self.path}: {reason}. "
                    + advice.format(path=self.path, folder=self.path.parent, busy_timeout=self.options.busy_timeout)
                )
        return BrokerUnavailableError(f"The broker's database {self.path} failed: {reason}")

    def _check_folder(self) -> None:
        folder = self.path.parent
        try:
            is_folder, is_other = folder.is_dir(), self.path.exists() and not stat.S_ISREG(self.path.stat().st_mode)
        except OSError as error:
            raise BrokerUnusableError(
                f"The broker's database {self.path} may not be read by this user: {error}. Mend the rights of {folder}"
            ) from error
        if not is_folder:
            raise BrokerUnusableError(
                f"The folder {folder} of the broker's database does not exist. Create it, or correct the broker URL"
            )
        if is_other:
            raise BrokerUnusableError(f"The broker's database {self.path} is not a file. Correct the broker URL")

    def _set_up(self, connection: Connection, tables: Tables) -> None:
        connection.exec_driver_sql(f"PRAGMA synchronous={self.options.synchronous}")
        deadline = time.monotonic() + self.options.busy_timeout
        # Turning WAL on ignores the busy timeout, so two first users would trip over each other.
        while connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() != "wal":
            try:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar_one()
            except DBAPIError as error:
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_INTERVAL)
                continue
            break
        shown = str(self.path)
        if current(connection, tables) < SCHEMA_VERSION:
            with self.migrating(connection, tables):
                upgrade(connection, tables, shown)
        newest = "Use one version of celery-laravel for all processes of this broker"
        check_version(connection, tables, shown, remedy=newest)


# What SQLite says, whether trying again can help, and what to do.
_ADVICE: tuple[tuple[str, bool, str], ...] = (
    (
        "locked",
        True,
        (
            "Another process held its write lock for more than {busy_timeout:g} s (the transport option busy_timeout). "
            "Look for a shell, a backup or a long transaction that has the file open; raise busy_timeout if it is meant"
        ),
    ),
    (
        "readonly",
        False,
        "Make the file and its folder {folder} writable for this user: SQLite keeps {path}-wal and -shm beside it",
    ),
    ("disk is full", True, "Free some space on the disk of {folder}; nothing of this change was stored"),
    (
        "unable to open",
        False,
        "Check that {folder} exists and that this user may read and write there, the file and its -wal and -shm too",
    ),
    (
        "not a database",
        False,
        "The file holds something else. Give the broker a file of its own, or remove this one if nobody needs it",
    ),
    (
        "malformed",
        False,
        "The file is damaged. Stop all processes, save what `sqlite3 {path} .recover` finds, and begin with a new file",
    ),
    ("disk I/O error", True, "Check the disk of {folder}; a network file system (NFS, SMB) cannot serve SQLite's WAL"),
    ("no such table", True, "The broker's tables were dropped while in use; they are created on the next connection"),
)
