"""SQLite."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, bindparam, func
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError

from celery_laravel import clock
from celery_laravel.errors import ConfigurationError
from celery_laravel.stores.instants import SECOND
from celery_laravel.stores.sqlalchemy.dialects.on_conflict import OnConflict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Connection, Table
    from sqlalchemy.engine import URL


class SQLite(OnConflict):
    """SQLite from 3.35, which has RETURNING. The clock is this library's, so that tests may move it."""

    name = "sqlite"
    begin = "BEGIN IMMEDIATE"  # a transaction that reads first and then writes could not be saved by waiting
    snapshot = ("BEGIN",)
    makes_its_schema = True
    _now = bindparam("now", callable_=lambda: int(clock.now() * SECOND), type_=BigInteger())  # never one to come

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

    def listed(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.json_group_array(column)

    def _insert(self, table: Table) -> Any:
        return sqlite.insert(table)

    def arguments(self, url: URL) -> dict[str, Any]:
        return {"check_same_thread": False}  # the pool, or the turn of a database in memory, keeps threads apart

    def prepare(self, connection: Any) -> None:
        """With a write-ahead log, NORMAL loses no commit when a process dies; a power cut may undo the last ones."""
        connection.execute("PRAGMA synchronous=NORMAL").close()

    def prepare_database(self, connection: Connection) -> None:
        """Have a write-ahead log, with which readers and the writer do not wait for each other.

        The file remembers it. SQLite does not wait by itself for those who
        open the file at the same time. A file system that cannot have such a
        log goes without.
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
