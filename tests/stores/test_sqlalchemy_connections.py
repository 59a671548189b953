"""Connections that break, are missing, are shared by threads, or came with a fork."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, exc, text, update
from sqlalchemy.pool import NullPool

from celery_laravel.errors import ConfigurationError, StoreUnavailableError
from celery_laravel.stores.records import AttemptStart, NewBatch, StartStatus
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore, engine
from celery_laravel.stores.sqlalchemy.dialects import mysql
from celery_laravel.testing.processes import free_port, wait_until
from tests.servers.contract import Server
from tests.stores.sql import PREFIX, on_server

HOUR = timedelta(hours=1)
WORKER = Path(__file__).with_name("sql_worker.py")
SESSIONS = {
    "postgresql": (
        "SELECT pid FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    ),
    "mysql": "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
}
END_SESSION = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}


@pytest.fixture
def server(sql_server: SQLAlchemyStore) -> SQLAlchemyStore:
    return sql_server


@pytest.fixture
def url(server: SQLAlchemyStore) -> str:
    return server._database._address.render_as_string(hide_password=False)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SQLAlchemyStore]:
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/store.db?timeout=0.05")
    yield store
    store.close()


def begin(store: SQLAlchemyStore, job_id: str = "job") -> AttemptStart:
    return store.attempts.begin(job_id, turn=0, attempts=0, exceptions=0, owner="worker", lease=HOUR, keep=HOUR)


def end_sessions(url: str) -> None:
    """Have the server end every other connection to the database of this run."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    kind = engine.dialect.name
    with engine.connect() as connection:

        def others() -> list[int]:
            return list(connection.execute(text(SESSIONS[kind])).scalars())

        for session in others():
            connection.execute(text(END_SESSION[kind].format(session)))
        wait_until(lambda: not others(), 10)


class Interruption(BaseException):
    """What a signal's handler raises in the middle of everything."""


def test_connections_that_the_server_has_closed_are_not_used(server: SQLAlchemyStore, url: str):
    """Nor is the first call lost that would have found out, even one that must not be made twice."""
    server.batches.create(NewBatch("batch"))
    with server._database._engine().connect(), server._database._engine().connect():
        pass  # now the pool has two
    for number in range(3):
        end_sessions(url)
        assert begin(server).attempt == number + 1
        end_sessions(url)
        assert server.batches.add("batch", 2) == number * 2
        end_sessions(url)
        assert server.batches.find("batch") is not None


def test_a_healthy_connection_is_used_again(server: SQLAlchemyStore):
    connections = []
    event.listen(server._database._engine(), "connect", lambda connection, _: connections.append(connection))
    for _ in range(20):
        server.ping()
        begin(server)
        server.batches.all()
    assert len(connections) <= 1


def test_a_transaction_whose_connection_breaks_is_made_again(server: SQLAlchemyStore, url: str):
    trials = []
    batches = server._database.tables.batches
    server.batches.create(NewBatch("batch"))

    def work(connection: Connection) -> None:
        trials.append(1)
        connection.execute(update(batches).values(total=batches.c.total + 1))
        if len(trials) == 1:
            end_sessions(url)
        connection.execute(update(batches).values(total=batches.c.total + 1))

    server._database.transaction(work)
    assert len(trials) == 2
    batch = server.batches.find("batch")
    assert batch is not None
    assert batch.total_jobs == 2


def test_a_transaction_whose_connections_break_all_the_time_says_so(server: SQLAlchemyStore, url: str):
    def work(connection: Connection) -> None:
        end_sessions(url)
        connection.execute(text("SELECT 1"))

    with pytest.raises(StoreUnavailableError, match=r"Cannot reach the store at (postgresql|mysql)"):
        server._database.transaction(work)
    server.ping()


@pytest.mark.postgresql
def test_what_must_not_be_done_twice_is_not_tried_again_on_another_connection(postgresql_url: str):
    """On PostgreSQL a statement on its own may have been done when its connection breaks."""
    trials = []

    def work(connection: Connection) -> None:
        trials.append(1)
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with on_server(postgresql_url) as store:
        with pytest.raises(StoreUnavailableError):
            store._database.single(work, repeatable=False)
        assert len(trials) == 1
        with pytest.raises(StoreUnavailableError):
            store._database.single(work)
        assert len(trials) == 3


def test_a_commit_of_unknown_end_is_not_repeated(server: SQLAlchemyStore, url: str):
    trials = []

    def work(connection: Connection) -> None:
        trials.append(1)
        connection.execute(text("SELECT 1"))
        end_sessions(url)

    with pytest.raises(StoreUnavailableError):
        server._database.transaction(work)
    assert len(trials) == 1


def test_an_interrupted_transaction_leaves_nothing_and_no_half_used_connection(server: SQLAlchemyStore):
    batches = server._database.tables.batches
    server.batches.create(NewBatch("batch"))

    def work(connection: Connection) -> None:
        connection.execute(update(batches).values(total=7))
        raise Interruption

    with pytest.raises(Interruption):
        server._database.transaction(work)
    batch = server.batches.find("batch")
    assert batch is not None
    assert batch.total_jobs == 0


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_server_that_stops_is_reported_and_found_again(kind: str, private_server: Callable[[str], Server]):
    private = private_server(kind)
    store = SQLAlchemyStore(private.url)
    store.migrate()
    assert begin(store).status is StartStatus.STARTED
    private.close()
    for call in (store.ping, lambda: begin(store), lambda: store.batches.find("x"), lambda: store.batches.delete("x")):
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError) as caught:
            call()
        assert caught.value.__cause__ is not None
        assert time.monotonic() - started < 10
    store.close()


def test_a_server_that_takes_no_connections_for_a_moment_is_waited_for(
    server: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
):
    connections = server._database._engine()
    connect = connections.connect
    refused: list[int] = []

    def refuse_twice() -> Any:
        if len(refused) < 2:
            refused.append(1)
            raise exc.OperationalError("connect", {}, Exception("the database system is starting up"))
        return connect()

    monkeypatch.setattr(connections, "connect", refuse_twice)
    assert begin(server).status is StartStatus.STARTED
    assert len(refused) == 2


def test_a_server_that_has_become_a_replica_is_no_store_until_another_has_taken_its_place(
    server: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
):
    assert begin(server).status is StartStatus.STARTED
    looks: list[int] = []

    def follow(connection: Any, _record: Any, _proxy: Any) -> None:
        """The first two connections lead to a replica, the next to the master."""
        looks.append(1)
        is_replica = len(looks) < 3
        with connection.cursor() as cursor:
            if server._database.dialect.name == "postgresql":
                cursor.execute(f"SET default_transaction_read_only = {'on' if is_replica else 'off'}")
            else:
                cursor.execute(f"SET SESSION TRANSACTION READ {'ONLY' if is_replica else 'WRITE'}")
        connection.commit()

    event.listen(server._database._engine(), "checkout", follow)
    assert begin(server, "another").status is StartStatus.STARTED
    assert len(looks) == 3
    looks[:] = []
    monkeypatch.setattr(engine, "PAUSES", (0.0,))
    with pytest.raises(StoreUnavailableError, match=r"(?i)read.only"):
        begin(server, "a third")


def test_a_pool_that_is_used_up_is_an_unavailable_store_after_a_bounded_time(
    server: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
):
    assert begin(server).status is StartStatus.STARTED
    pool: Any = server._database._engine().pool
    monkeypatch.setattr(pool, "_timeout", 0.2)
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(server._database._engine().connect())
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            begin(server, "another")
        assert time.monotonic() - started < 10
    assert begin(server, "another").status is StartStatus.STARTED


def test_a_server_that_gives_no_answer_is_an_unavailable_store_after_a_bounded_time(
    server: SQLAlchemyStore, url: str, monkeypatch: pytest.MonkeyPatch
):
    """A driver waits for an answer without end, and with it a dispatch, or a worker's main process."""
    monkeypatch.setattr(server._database._watch, "seconds", 1.0)
    assert begin(server).status is StartStatus.STARTED
    table = server._database.tables.attempts.name
    lock, unlock = (
        (("BEGIN", f"LOCK TABLE {table}"), "ROLLBACK")
        if server._database.dialect.name == "postgresql"
        else ((f"LOCK TABLES {table} WRITE",), "UNLOCK TABLES")
    )
    other = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with other.connect() as connection:
        for statement in lock:
            connection.exec_driver_sql(statement)
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            begin(server, "another")
        assert time.monotonic() - started < 15
        connection.exec_driver_sql(unlock)
    assert begin(server, "a third").status is StartStatus.STARTED


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_a_server_that_takes_connections_and_says_nothing_is_unavailable(driver: str, monkeypatch: pytest.MonkeyPatch):
    """As one does that stands still: the machine takes the connection for it."""
    monkeypatch.setattr(mysql, "_GREETING", 0.3)
    monkeypatch.setattr(engine, "PAUSES", ())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        query = "?connect_timeout=2" if driver == "postgresql+psycopg" else ""
        store = SQLAlchemyStore(f"{driver}://someone@127.0.0.1:{silent.getsockname()[1]}/jobs{query}")
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            store.ping()
        assert time.monotonic() - started < 8
        store.close()


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_a_server_that_is_not_there_is_named_without_its_password(driver: str):
    store = SQLAlchemyStore(f"{driver}://someone:s3cret@127.0.0.1:{free_port()}/jobs")
    with pytest.raises(StoreUnavailableError) as caught:
        store.ping()
    assert store.url == caught.value.url
    assert ":***@127.0.0.1" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in store.url


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_a_process_that_was_forked_uses_connections_of_its_own(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
):
    url = f"sqlite:///{tmp_path}/store.db" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    with nullcontext() if kind == "sqlite" else on_server(url):
        answer = subprocess.run(
            [sys.executable, str(WORKER), "fork", url, PREFIX], stdout=subprocess.PIPE, check=True, timeout=60
        )
    told = json.loads(answer.stdout)
    assert told["child"]["count"] == 0
    assert told["child"]["session"] != told["before"]
    assert told["after"] == told["before"]


def test_threads_share_a_store(server: SQLAlchemyStore):
    with ThreadPoolExecutor(24) as pool:
        starts = list(pool.map(lambda number: begin(server, f"job-{number}"), range(240)))
    assert {start.attempt for start in starts} == {1}


def test_sqlite_that_stays_busy_is_unavailable_after_a_bounded_time(sqlite: SQLAlchemyStore, tmp_path: Path):
    sqlite.batches.create(NewBatch("batch"))
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    for call in (lambda: begin(sqlite), lambda: sqlite.batches.cancel("batch")):
        with pytest.raises(StoreUnavailableError, match="database is locked"):
            call()
    assert time.monotonic() - started < 5
    assert sqlite.batches.find("batch") is not None  # who reads does not wait
    other.execute("COMMIT")
    other.close()
    assert begin(sqlite).attempt == 1


def test_sqlite_that_is_busy_for_a_moment_is_waited_for(tmp_path: Path):
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/store.db?timeout=20")
    store.ping()
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, lambda: other.execute("COMMIT"))
    release.start()
    assert begin(store).attempt == 1
    release.join()
    other.close()
    store.close()


def test_sqlite_without_its_folder_says_which(tmp_path: Path):
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/missing/store.db")
    with pytest.raises(ConfigurationError, match=rf"The folder '{tmp_path}/missing' of the store .* does not exist"):
        store.ping()


def test_sqlite_that_may_not_be_written_is_unavailable(tmp_path: Path):
    maker = SQLAlchemyStore(f"sqlite:///{tmp_path}/store.db")
    maker.migrate()
    maker.close()
    store = SQLAlchemyStore(f"sqlite:///file:{tmp_path}/store.db?mode=ro&uri=true")
    assert store.failed_jobs.count() == 0
    with pytest.raises(StoreUnavailableError, match="readonly"):
        begin(store)
    store.close()


def test_sqlite_in_memory_is_shared_by_threads():
    store = SQLAlchemyStore("sqlite://")
    store.batches.create(NewBatch("batch"))
    with ThreadPoolExecutor(8) as pool:
        firsts = sorted(pool.map(lambda _: store.batches.add("batch", 1), range(200)))
    assert firsts == list(range(200))
    store.close()


def test_an_interruption_does_not_empty_sqlite_in_memory():
    store = SQLAlchemyStore("sqlite://")
    store.batches.create(NewBatch("batch"))

    def work(connection: Connection) -> None:
        raise Interruption

    with pytest.raises(Interruption):
        store._database.transaction(work)
    assert store.batches.find("batch") is not None
    store.close()


@pytest.mark.parametrize(
    "url", ["oracle://x", "mssql+pyodbc://x", "sqlite+aiosqlite:///x.db", "postgresql+asyncpg://x"]
)
def test_other_databases_and_asynchronous_drivers_are_refused(url: str):
    with pytest.raises(ConfigurationError, match=r"SQLite .*PostgreSQL .*MariaDB and MySQL"):
        SQLAlchemyStore(url)


def test_a_missing_driver_is_named_with_the_extra_that_brings_it():
    store = SQLAlchemyStore("postgresql+psycopg2://127.0.0.1/x")
    with pytest.raises(ConfigurationError, match=r"needs the module 'psycopg2'.*celery-laravel\[postgresql\]"):
        store.ping()


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgresql://localhost/x", "postgresql+psycopg"),
        ("mysql://localhost/x", "mysql+pymysql"),
        ("mariadb://localhost/x", "mysql+pymysql"),
        ("mariadb+pymysql://localhost/x", "mysql+pymysql"),
        ("sqlite:///x.db", "sqlite"),
    ],
)
def test_a_url_without_a_driver_gets_the_one_of_the_extras(url: str, driver: str):
    assert SQLAlchemyStore(url)._database._address.drivername == driver
