"""The store in an SQL database: all capabilities on one set of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from celery_laravel.stores.instants import as_datetime
from celery_laravel.stores.records import StoreCondition
from celery_laravel.stores.sqlalchemy.attempts import SQLAttemptStore
from celery_laravel.stores.sqlalchemy.batches import SQLBatchStore
from celery_laravel.stores.sqlalchemy.debounces import SQLDebounceStore
from celery_laravel.stores.sqlalchemy.delays import SQLDelayStore
from celery_laravel.stores.sqlalchemy.engine import Database
from celery_laravel.stores.sqlalchemy.failed_jobs import SQLFailedJobStore
from celery_laravel.stores.sqlalchemy.limits import SQLLimitStore
from celery_laravel.stores.sqlalchemy.locks import SQLLockStore
from celery_laravel.stores.sqlalchemy.settling import SettlingInOne

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy import Connection

    from celery_laravel.stores.records import AttemptEnd, BatchChange, MemberEnd


class SQLAlchemyStore:
    """A `Store` in SQLite, PostgreSQL, MariaDB or MySQL.

    SQLite's tables are made when the store is first used; a server's by
    `migrate`, which ``celery -A app laravel migrate`` calls. The time is that
    of the server; with SQLite, this process's.

    Raises:
        ConfigurationError: The URL is of another database, its driver is not
            installed, or the tables are missing.
    """

    def __init__(self, url: str, prefix: str = "laravel") -> None:
        self._database = Database(url, prefix)
        self.locks = SQLLockStore(self._database)
        self.limits = SQLLimitStore(self._database)
        self.debounces = SQLDebounceStore(self._database)
        self.delays = SQLDelayStore(self._database)
        self.attempts = SQLAttemptStore(self._database, self.locks)
        self._settle_in_one = SettlingInOne(self._database, self.attempts)
        self.batches = SQLBatchStore(self._database, self._settle_in_one)
        self.failed_jobs = SQLFailedJobStore(self._database)

    @property
    def url(self) -> str:
        return self._database.url

    def settle(self, *, member: MemberEnd | None, attempt: AttemptEnd | None, keep: timedelta) -> BatchChange | None:
        """Count a batch's member and end a turn, both in one transaction."""
        if member is None:
            if attempt is not None:
                self.attempts.end(attempt, keep=keep)
            return None

        change = self._settle_in_one(member, attempt, keep=keep)
        if change is not None:
            return change

        def work(connection: Connection) -> BatchChange | None:
            change = self.batches.end_member_within(connection, member)
            if attempt is not None:
                self.attempts.end_within(connection, attempt, keep=keep)
            return change

        return self._database.transaction(work)

    def condition(self) -> StoreCondition:
        now: Any = self._database.single(lambda connection: connection.scalar(select(self._database.dialect.now)))
        pending = tuple(self.pending_migrations())  # behind the first look, which makes SQLite's tables
        return StoreCondition(as_datetime(int(now)), pending_migrations=pending)

    def ping(self) -> None:
        self._database.single(lambda connection: connection.scalar(select(1)))

    def close(self) -> None:
        self._database.close()

    def migrate(self, revision: str = "head") -> None:
        """Bring the tables to a revision. Running it twice, or in two places at once, changes nothing more."""
        self._database.migrate(revision)

    def pending_migrations(self) -> list[str]:
        """The revisions that `migrate` would run, in order; none when the tables are as this version wants them.

        Raises:
            ConfigurationError: The tables are of a newer version of this library.
        """
        return self._database.pending_migrations()
