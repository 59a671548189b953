"""What a server brings with it: its own clock, locks, lost connections, missing tables."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from kombu import Connection
from kombu.exceptions import OperationalError

import celery_laravel.clock
from celery_laravel.errors import CeleryLaravelError, ConfigurationError
from celery_laravel.testing.processes import wait_until
from celery_laravel.transport.database import connection as broker
from celery_laravel.transport.database.connection import _unsettled
from celery_laravel.transport.database.errors import BrokerUnavailableError, BrokerUnusableError
from celery_laravel.transport.database.migrating import migrate, pending
from celery_laravel.transport.database.options import BrokerOptions
from celery_laravel.transport.database.tables import SCHEMA_VERSION, Tables
from tests.transport.conftest import BROKERS, MARKS, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVERY_VERSION = list(range(1, SCHEMA_VERSION + 1))
SERVERS = [name for name in BROKERS if name != "sqlite"]


@pytest.fixture(params=[pytest.param(name, marks=MARKS[name], id=name) for name in SERVERS])
def broker_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with BROKERS[request.param](request) as url:
        yield url


@pytest.fixture
def server(broker_url: str) -> Iterator[sa.Engine]:
    """The server as somebody else sees it."""
    engine = sa.create_engine(broker_url.removeprefix("database+"), isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


def put(connection: Connection, body: Any = "x") -> None:
    connection.Producer().publish(body, routing_key="jobs")


def get(connection: Connection) -> Any:
    return connection.default_channel.basic_get("jobs")


def cut(server: sa.Engine, connection: Connection) -> None:
    """End the server's side of a connection, and wait until it is gone."""
    lent = connection.transport.database._connection.connection.driver_connection
    with server.connect() as other:
        if server.dialect.name == "postgresql":
            pid = lent.info.backend_pid
            other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            gone = sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
        else:
            pid = lent.thread_id()
            other.exec_driver_sql(f"KILL {int(pid)}")
            gone = sa.text("SELECT count(*) FROM information_schema.processlist WHERE id = :pid")
        wait_until(lambda: not other.execute(gone, {"pid": pid}).scalar_one())


@contextmanager
def table_locked(server: sa.Engine, connection: Connection) -> Iterator[None]:
    table = connection.transport.database.tables.messages.name
    with server.connect() as other:
        if server.dialect.name == "postgresql":
            other.exec_driver_sql("BEGIN")
            other.exec_driver_sql(f"LOCK TABLE {table}")
            yield
            other.exec_driver_sql("ROLLBACK")
        else:
            other.exec_driver_sql(f"LOCK TABLES {table} WRITE")
            yield
            other.exec_driver_sql("UNLOCK TABLES")


def test_the_servers_clock_is_the_one_that_counts(
    connect: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, behind = connect(visibility_timeout=30), connect(visibility_timeout=30)
    now = celery_laravel.clock.now
    monkeypatch.setattr(celery_laravel.clock, "now", lambda: now() + 86_400)
    put(ahead)
    first = get(ahead)
    assert first.payload == "x"
    ahead.default_channel.renew()
    monkeypatch.setattr(celery_laravel.clock, "now", lambda: now() - 86_400)
    assert get(behind) is None
    monkeypatch.setattr(celery_laravel.clock, "now", lambda: now() + 2 * 86_400)
    assert get(behind) is None
    first.ack()
    put(behind, "y")
    assert get(ahead).payload == "y"


def test_tables_that_are_not_there_are_an_error_that_says_what_to_run(broker_url: str) -> None:
    with Connection(broker_url, transport_options={"table_prefix": "elsewhere_"}) as connection:
        with pytest.raises(BrokerUnusableError, match="celery -A your_app laravel migrate") as caught:
            put(connection)
        assert isinstance(caught.value, CeleryLaravelError)
        assert isinstance(caught.value, OperationalError)


def test_migrating_makes_the_tables_once_and_of_several_at_once_one_does(broker_url: str, server: sa.Engine) -> None:
    options = BrokerOptions(broker_url.removeprefix("database+"), table_prefix="fresh_")
    tables = Tables("fresh_")
    try:
        assert pending(options) == EVERY_VERSION
        done: list[list[int]] = []
        threads = [threading.Thread(target=lambda: done.append(migrate(options))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(done) == [[], [], [], EVERY_VERSION]
        assert pending(options) == []
        with Connection(broker_url, transport_options={"table_prefix": "fresh_"}) as connection:
            put(connection)
            assert get(connection).payload == "x"
    finally:
        tables.metadata.drop_all(server)


def test_postgresql_is_told_to_clear_away_what_is_dead_early(broker_url: str, server: sa.Engine) -> None:
    if server.dialect.name != "postgresql":
        return
    with server.connect() as other:
        options = other.exec_driver_sql("SELECT reloptions FROM pg_class WHERE relname = 'celery_broker_messages'")
        assert "autovacuum_vacuum_scale_factor=0.02" in options.scalar_one()


def test_tables_of_a_newer_library_are_left_alone(broker_url: str, server: sa.Engine) -> None:
    options = BrokerOptions(broker_url.removeprefix("database+"), table_prefix="newer_")
    tables = Tables("newer_")
    try:
        migrate(options)
        with server.connect() as other:
            other.execute(tables.schema.insert(), {"version": SCHEMA_VERSION + 1})
        with pytest.raises(BrokerUnusableError, match="Update celery-laravel"):
            migrate(options)
        with (
            Connection(broker_url, transport_options={"table_prefix": "newer_"}) as connection,
            pytest.raises(BrokerUnusableError, match="one version of celery-laravel"),
        ):
            put(connection)
    finally:
        tables.metadata.drop_all(server)


def test_a_connection_that_was_cut_while_idle_is_replaced_without_a_word(
    connect: Callable[..., Connection], server: sa.Engine
) -> None:
    connection = connect()
    put(connection, "a")
    for body in ("a", "b"):
        cut(server, connection)
        put(connection, "b")
        cut(server, connection)
        message = get(connection)
        assert message.payload == body
        cut(server, connection)
        message.ack()
    assert rows_of(connection.default_channel, "jobs") == 1


def test_a_connection_that_is_cut_in_the_middle_of_a_transaction_is_an_error_worth_another_try(
    connect: Callable[..., Connection], server: sa.Engine
) -> None:
    """It ended a worker: to roll back on what the driver has given up is an error of another kind."""
    connection = connect()
    put(connection)
    messages = connection.default_channel.messages

    def work(lent: sa.Connection) -> None:
        lent.execute(messages._messages.delete())
        cut(server, connection)
        lent.execute(messages._messages.delete())

    with pytest.raises(BrokerUnavailableError):
        connection.transport.database.run(work, as_one=True)
    assert get(connection).payload == "x"


def test_a_server_that_gives_no_answer_is_taken_for_gone_after_a_bounded_time(
    connect: Callable[..., Connection], server: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stands still ends no connection; a producer, or a worker's event loop, waited for it without end."""
    monkeypatch.setattr(broker, "ANSWER_TIMEOUT", 0.0)
    connection = connect(busy_timeout=0.3)
    put(connection)
    sleep = "SELECT pg_sleep(30)" if server.dialect.name == "postgresql" else "SELECT SLEEP(30)"
    started = time.monotonic()
    with pytest.raises(BrokerUnavailableError):
        connection.transport.database.run(lambda lent: lent.exec_driver_sql(sleep))
    assert time.monotonic() - started < 10
    assert get(connection).payload == "x"


def test_messages_of_a_reservation_whose_answer_was_lost_come_back_with_the_next_connection(
    connect: Callable[..., Connection], server: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stored and nobody knows: without more, its messages would be hidden for the visibility timeout."""
    connection = connect()
    put(connection)
    messages = connection.default_channel.messages
    fetch = messages._reserve

    def fetch_and_lose(*args: Any) -> Any:
        assert len(fetch(*args)) == 1
        cut(server, connection)
        raise BrokerUnavailableError("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(messages, "_reserve", fetch_and_lose)
        with pytest.raises(BrokerUnavailableError):
            get(connection)
    message = get(connection)
    assert message.payload == "x"
    assert message.headers == {"redelivered": True}


def test_nothing_is_to_be_made_up_for_where_there_was_no_connection(
    connect: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the server is away for an hour, whoever asks again and again must not pile up what nobody ever did."""
    connection = connect()
    put(connection)
    database = connection.transport.database

    def fail(*_: Any) -> Any:
        raise BrokerUnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(database.dialect, "connect", fail)
        database._drop()
        for _ in range(3):
            with pytest.raises(BrokerUnavailableError):
                get(connection)
        assert not _unsettled.get(database.options)
    assert get(connection).payload == "x"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs a list of the open files")
def test_a_forked_child_has_no_part_in_its_parents_session(connect: Callable[..., Connection]) -> None:
    """A server ends the session of a killed process, and gives its locks back, when the last copy is closed."""
    connection = connect()
    put(connection)
    database = connection.transport.database
    descriptor = database.dialect.descriptor(database._connection.connection.driver_connection)
    child = os.fork()
    if not child:
        os._exit(0 if Path(f"/proc/self/fd/{descriptor}").readlink() == Path(os.devnull) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert get(connection).payload == "x"


def test_what_a_channel_held_when_the_server_was_gone_goes_back_with_the_next_connection(
    connect: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, other = connect(), connect()
    for body in "ab":
        put(connection, body)
    done, held = get(connection), get(connection)
    database = connection.transport.database

    def fail(*_: Any) -> Any:
        raise BrokerUnavailableError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(database.dialect, "connect", fail)
        database._drop()
        done.ack()
        assert len(connection.default_channel.qos.leases()) == 2
        connection.default_channel.close()
    assert held.payload == "b"
    assert get(other).payload == "b"
    assert get(other) is None
    assert rows_of(other.default_channel, "jobs") == 1


def test_a_lock_is_waited_for_and_then_an_error_that_names_the_option(
    connect: Callable[..., Connection], server: sa.Engine
) -> None:
    patient, hasty = connect(busy_timeout=60), connect(busy_timeout=1)
    for connection in (patient, hasty):
        connection.default_channel.queue_declare("jobs")
    with table_locked(server, patient):
        waiting = threading.Thread(target=put, args=(patient, "waited"))
        waiting.start()
        with pytest.raises(BrokerUnavailableError, match="busy_timeout"):
            put(hasty)
    waiting.join(30)
    assert get(hasty).payload == "waited"
    assert get(hasty) is None


def test_a_message_that_another_session_has_locked_is_passed_over(
    connect: Callable[..., Connection], server: sa.Engine
) -> None:
    """Else workers would wait for one another; to wait here would end in an error."""
    connection = connect(busy_timeout=1)
    for body in "abc":
        put(connection, body)
    messages = connection.transport.database.tables.messages
    first = sa.select(messages.c.id).order_by(messages.c.id).limit(1)
    with server.connect() as other:
        locked = sa.select(messages.c.id).where(messages.c.id == other.scalar(first)).with_for_update()
        other.exec_driver_sql("BEGIN")
        assert len(other.execute(locked).all()) == 1
        assert get(connection).payload == "b"
        assert connection.default_channel.basic_get("jobs", no_ack=True).payload == "c"
        assert get(connection) is None
        other.exec_driver_sql("ROLLBACK")
    assert get(connection).payload == "a"


def test_a_change_that_was_undone_for_the_sake_of_others_is_made_again(
    connect: Callable[..., Connection], server: sa.Engine
) -> None:
    """Two transactions that lock the same two rows in turn: the server undoes one of them."""
    queues = connect().default_channel.connection.database.tables.queues
    with server.begin() as other:
        other.execute(queues.insert(), [{"name": "one"}, {"name": "two"}])
    both, runs = threading.Barrier(2), []

    def lock(*names: str, patience: float) -> None:
        # Other options, so that it gets a connection of its own.
        database = connect(busy_timeout=patience).default_channel.connection.database

        def work(connection: Any) -> None:
            runs.append(names)
            for number, name in enumerate(names):
                connection.execute(queues.update().where(queues.c.name == name).values(expires_after=number))
                if not number and runs.count(names) == 1:
                    both.wait(30)

        database.run(work, as_one=True)

    threads = [
        threading.Thread(target=lock, args=("one", "two"), kwargs={"patience": 30}),
        threading.Thread(target=lock, args=("two", "one"), kwargs={"patience": 31}),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(runs) == 3


def test_a_wrong_password_or_database_is_not_tried_again_and_not_shown(broker_url: str) -> None:
    url = sa.make_url(broker_url.removeprefix("database+"))
    wrong = url.set(database="no_such_database", password="s3cret")
    with Connection("database+" + wrong.render_as_string(hide_password=False)) as connection:
        with pytest.raises(BrokerUnusableError, match="broker URL") as caught:
            put(connection)
        assert "s3cret" not in str(caught.value)


def test_a_server_that_does_not_answer_is_unavailable(broker_url: str) -> None:
    nowhere = sa.make_url(broker_url.removeprefix("database+")).set(port=1)
    connection = Connection("database+" + nowhere.render_as_string(hide_password=False))
    with connection, pytest.raises(BrokerUnavailableError, match="Is the server running"):
        connection.transport.establish_connection()


def test_a_url_without_a_database_is_refused(broker_url: str) -> None:
    url = sa.make_url(broker_url.removeprefix("database+")).set(database="")
    with pytest.raises(ConfigurationError, match="names no database"):
        Connection("database+" + url.render_as_string(hide_password=False)).connect()


def test_kombu_fails_over_from_and_to_a_server(broker_url: str) -> None:
    good = sa.make_url(broker_url.removeprefix("database+"))
    urls = ["database+" + url.render_as_string(hide_password=False) for url in (good.set(port=1), good)]
    with Connection(urls) as connection:
        connection.ensure_connection(max_retries=2, interval_start=0, timeout=30)
        put(connection)
        with connection.clone() as clone:
            assert get(clone).payload == "x"


def test_a_signal_in_the_middle_of_a_statement_leaves_the_connection_usable(
    connect: Callable[..., Connection], server: sa.Engine
) -> None:
    """A soft time limit raises wherever the job is, in the driver too."""
    import signal

    connection = connect(busy_timeout=30)
    connection.default_channel.queue_declare("jobs")

    class TimeIsUpError(Exception):
        pass

    def raise_it(*_: Any) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        with table_locked(server, connection):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(TimeIsUpError):
                put(connection, "interrupted")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    put(connection, "next")
    found = [message.payload for message in iter(lambda: get(connection), None)]
    assert found[-1] == "next"


def test_a_long_queue_of_delayed_messages_is_not_read_to_reach_those_behind(
    connect: Callable[..., Connection], server: sa.Engine
) -> None:
    connection = connect()
    messages = connection.default_channel.messages
    due = celery_laravel.clock.now() + 3600
    messages.publish([{"queue": "jobs", "priority": 9, "due": due, "payload": "{}"} for _ in range(20_000)])
    put(connection)
    database = connection.transport.database
    with server.connect() as other:
        if server.dialect.name == "postgresql":
            other.exec_driver_sql(f"ANALYZE {database.tables.messages.name}")
            chosen = sa.select(database.tables.messages.c.id).where(database.dialect._next(database.tables))
            values = {"queue_name": "jobs", "count": 4}
            read = _rows_read_by_postgresql(other, chosen.params(values))
        else:
            read = _rows_read_by_mariadb(server, connection)
    assert read < 100
    assert get(connection).payload == "x"


def _rows_read_by_postgresql(connection: sa.Connection, statement: sa.Select[Any]) -> int:
    text = str(statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
    plan = connection.execute(sa.text("EXPLAIN (ANALYZE, FORMAT JSON) " + text)).scalar_one()

    def rows(node: dict[str, Any]) -> int:
        here = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        return int(here * node["Actual Loops"]) + sum(map(rows, node.get("Plans", ())))

    return rows(plan[0]["Plan"])


def _rows_read_by_mariadb(server: sa.Engine, connection: Connection) -> int:
    """What the broker's own session read for one reservation."""
    status = "SHOW SESSION STATUS WHERE Variable_name LIKE 'Handler_read%%'"
    database, messages = connection.transport.database, connection.default_channel.messages
    with database.session() as session:
        before = sum(int(row[1]) for row in session.exec_driver_sql(status))
    held = messages.reserve("jobs", 4, lease="look")
    with database.session() as session:
        after = sum(int(row[1]) for row in session.exec_driver_sql(status))
    messages.hand_back([(row.id, row.lease) for row in held], unused=True)
    return after - before
