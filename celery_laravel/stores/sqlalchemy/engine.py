"""Connections: one engine a process, transactions that are tried again, and errors that say where the store is."""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import exc, func, select
from sqlalchemy.engine import make_url

from celery_laravel.errors import CeleryLaravelError, ConfigurationError, StoreUnavailableError
from celery_laravel.settings import without_password
from celery_laravel.stores.drivers import said_by
from celery_laravel.stores.sqlalchemy import migrations
from celery_laravel.stores.sqlalchemy.connecting import is_in_memory, open_engine, with_installed_driver
from celery_laravel.stores.sqlalchemy.dialects import dialect_for
from celery_laravel.stores.sqlalchemy.tables import tables_for
from celery_laravel.stores.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Engine, Table

    T = TypeVar("T")

_MOST_LOOKS = 20

RETRY_FOR = 3.0
"""Seconds after which work that no server takes is not tried again."""
ANSWER_TIMEOUT = 15.0
"""Seconds after which a call without an answer is broken off: less than a lease has left when it is renewed in time."""
PAUSES = (0.0, 0.1, 0.3, 0.8, 1.5)
"""Seconds before each further try, on average."""

_inherited: list[Engine] = []
"""Engines of the parent process. To close their connections, or to let them be collected, would disturb the parent."""


class Database:
    """The database behind a store: runs work in transactions.

    It connects when it is first used, in each process anew: connections that
    came with a fork are left alone. Threads may share it.

    Work that lost against another transaction (deadlock, serialisation, a busy
    SQLite) has been undone, and is tried again a few times. Where the
    connection broke it is tried once more, on a new one, if that cannot do it
    twice. A server that takes no connections, or no changes because it is a
    replica now, is tried again for about three seconds. One that gives no answer
    for fifteen is taken for lost.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self.url = without_password(url)
        self.prefix = prefix
        self.tables = tables_for(prefix)
        self._address = with_installed_driver(make_url(url))
        self.dialect = dialect_for(self._address, self.url)
        self._engines: dict[int, Engine] = {}
        self._ready: set[int] = set()
        self._watch = Watch(ANSWER_TIMEOUT)
        self._is_in_memory = is_in_memory(self._address)
        # A database in memory has one connection, and with it one transaction at a time.
        self._turn: AbstractContextManager[Any] = threading.RLock() if self._is_in_memory else nullcontext()

    # -- running -----------------------------------------------------------------------------------
    def single(self, work: Callable[[Connection], T], *, repeatable: bool = True) -> T:
        """Run work of one statement that changes something, or of several that read, each on its own.

        ``repeatable`` says that it may be done twice without harm: when the
        connection breaks, nobody knows whether it has been done.
        """
        return self._run(work, (), repeatable=repeatable or self.dialect.begins_by_itself)

    def transaction(self, work: Callable[[Connection], T], *, patient: bool = True) -> T:
        """Run work as one transaction that may write; not ``patient``, it is given up when it loses against another."""
        begin = self.dialect.begin
        return self._run(work, () if begin is None else (begin,), repeatable=True, patient=patient)

    def snapshot(self, work: Callable[[Connection], T]) -> T:
        """Run work that only reads, all of it at the same instant."""
        return self._run(work, self.dialect.snapshot, repeatable=True)

    def count(self, table: Table, queue: str | None) -> int:
        """How many rows a table has: all, or those of one queue."""
        statement = select(func.count()).select_from(table)
        if queue is not None:
            statement = statement.where(table.c.queue == queue)
        return self.single(lambda connection: connection.execute(statement).scalar_one())

    def close(self) -> None:
        """Give back this process's connections."""
        pid = os.getpid()
        self._ready.discard(pid)
        engine = self._engines.pop(pid, None)
        if engine is not None:
            engine.dispose()

    def _run(
        self,
        work: Callable[[Connection], T],
        opening: Sequence[str],
        *,
        repeatable: bool,
        needs_tables: bool = True,
        patient: bool = True,
    ) -> T:
        trials = Trials(self, repeatable=repeatable, patient=patient)
        while True:
            trials.is_committing = trials.is_connected = False
            try:
                engine = self._engine()
                with self._turn:
                    if needs_tables and os.getpid() not in self._ready:
                        self._make_ready(engine)
                    with engine.connect() as connection:
                        trials.is_connected = True
                        try:
                            with self._watched(connection) if needs_tables else nullcontext():
                                for statement in opening:
                                    connection.exec_driver_sql(statement)
                                result = work(connection)
                                trials.is_committing = True
                                connection.commit()
                        except (exc.SQLAlchemyError, CeleryLaravelError):
                            raise
                        except BaseException:
                            # A time limit's signal, say: the driver may be in the middle of an answer.
                            if not self._is_in_memory:
                                connection.invalidate()
                            raise
                        return result
            except exc.SQLAlchemyError as error:
                trials.judge(error)

    def until(self, look: Callable[[], T | None], what: str) -> T:
        """The first answer of a look that is not None. Others may come between two looks, but not for ever.

        Raises:
            StoreUnavailableError: They have come between each time.
        """
        for _ in range(_MOST_LOOKS):
            answer = look()
            if answer is not None:
                return answer
        raise StoreUnavailableError(self.url, f"{what} changes all the time")

    def _watched(self, connection: Connection) -> AbstractContextManager[None]:
        """Have a server that gives no answer taken for one that is lost; a migration may take its time."""
        return self._watch.over(self.dialect.descriptor(connection.connection.driver_connection))

    # -- connecting --------------------------------------------------------------------------------
    def _engine(self) -> Engine:
        """This process's engine."""
        pid = os.getpid()
        engine = self._engines.get(pid)
        if engine is None:
            _inherited.extend(self._engines.pop(other) for other in [*self._engines] if other != pid)
            engine = self._engines.setdefault(pid, open_engine(self._address, self.dialect, self.url))
        return engine

    def _make_ready(self, engine: Engine) -> None:
        """Make SQLite's tables, once a process; whoever comes first makes them for all."""
        if self.dialect.makes_its_schema:
            with engine.connect() as connection:
                if migrations.current(connection, self.prefix) in migrations.BEFORE:
                    self._upgrade(connection, "head")
        self._ready.add(os.getpid())

    def connect_anew(self) -> None:
        """Let go of the connections that are there."""
        self._engine().dispose()

    def make_ready_again(self) -> None:
        """Look at the tables again: they were there, and are not any more."""
        self._ready.discard(os.getpid())
        self._engine().dispose()

    # -- the schema --------------------------------------------------------------------------------
    def migrate(self, revision: str = "head") -> None:
        """Bring the tables to a revision; of several that do so at once, one does and the others wait for it."""
        self._run(lambda connection: self._upgrade(connection, revision), (), repeatable=True, needs_tables=False)

    def pending_migrations(self) -> list[str]:
        """The revisions that `migrate` would run, in order."""
        work = migrations.pending
        return self._run(lambda connection: work(connection, self.prefix), (), repeatable=True, needs_tables=False)

    def _upgrade(self, connection: Connection, revision: str) -> None:
        self.dialect.prepare_database(connection)
        connection.commit()
        with self.dialect.migrating(connection, self.prefix):
            migrations.upgrade(connection, self.prefix, revision)


class Trials:
    """How often one piece of work has been tried, and whether it is to be tried again."""

    LOSSES = 6
    SQLITE_LOSSES = 3  # each has waited for as long as its ``timeout`` says

    def __init__(self, database: Database, *, repeatable: bool, patient: bool = True) -> None:
        self._database = database
        self._repeatable = repeatable
        losses = self.SQLITE_LOSSES if database.dialect.name == "sqlite" else self.LOSSES
        self._most_losses = losses if patient else 1
        self._losses = 0
        self._pauses = iter(PAUSES)
        self._gives_up_at = time.monotonic() + RETRY_FOR
        self._has_broken = False
        self._has_lacked_tables = False
        self.is_committing = False
        self.is_connected = False

    def judge(self, error: exc.SQLAlchemyError) -> None:
        """Return if the work is to be tried again, after a pause if one helps; else raise what to tell the caller."""
        cause = getattr(error, "orig", None) or error
        if self._is_to_be_tried_again(error, cause):
            return
        if self._database.dialect.lacks_tables(cause):
            raise ConfigurationError(
                f"The store at {self._database.url} lacks tables, or has older ones: {said_by(cause)}. "
                "Run: celery -A your_app laravel migrate"
            ) from error
        if isinstance(error, _UNAVAILABLE):
            raise StoreUnavailableError(self._database.url, said_by(cause)) from error
        if isinstance(error, exc.StatementError) and not isinstance(error, exc.DBAPIError):
            raise cause from error  # a value that a column's type refuses, before the driver saw it
        raise error

    def _is_to_be_tried_again(self, error: exc.SQLAlchemyError, cause: BaseException) -> bool:
        dialect = self._database.dialect
        if dialect.is_passing(cause):
            return self._may_lose_again()
        if dialect.is_replica(cause):
            self._database.connect_anew()  # the next connection may lead to the server that has taken its place
            return self._may_wait()
        if not self.is_connected and self._is_away(error):
            return self._may_wait()
        if getattr(error, "connection_invalidated", False):
            may_repeat = self._repeatable and not self.is_committing and not self._has_broken
            self._has_broken = True
            return may_repeat
        if dialect.lacks_tables(cause) and dialect.makes_its_schema and not self._has_lacked_tables:
            self._has_lacked_tables = True
            self._database.make_ready_again()
            return True
        return False

    def _may_lose_again(self) -> bool:
        self._losses += 1
        if self._losses >= self._most_losses:
            return False
        time.sleep(random.uniform(0.2, 1.0) * 0.005 * 2**self._losses)
        return True

    def _is_away(self, error: exc.SQLAlchemyError) -> bool:
        """Whether no connection could be made, so that nothing has been done; a full pool has waited long enough."""
        return isinstance(error, exc.DBAPIError) and self._database.dialect.name != "sqlite"

    def _may_wait(self) -> bool:
        """Wait before the next try, if there is to be one."""
        pause = next(self._pauses, None)
        if pause is None or time.monotonic() >= self._gives_up_at:
            return False
        time.sleep(pause * random.uniform(0.5, 1.5))
        return True


_UNAVAILABLE = (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError, exc.DisconnectionError)
