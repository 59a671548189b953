"""Real workers on a server: several at once, killed, cut off, and with the server stopped under them."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from celery import Celery

from celery_laravel.testing.processes import wait_until
from celery_laravel.transport.database.migrating import migrate
from celery_laravel.transport.database.options import BrokerOptions
from tests.servers.contract import ServerMissingError
from tests.servers.servers import KINDS
from tests.transport.conftest import APP, BROKERS, MARKS, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_laravel.testing.processes import ManagedProcess
    from tests.transport.conftest import Record, StartWorker

SERVERS = [name for name in BROKERS if name != "sqlite"]
ALONE = ("--without-mingle", "--without-gossip")


@pytest.fixture(params=[pytest.param(name, marks=[*MARKS[name], pytest.mark.slow], id=name) for name in SERVERS])
def broker_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with BROKERS[request.param](request) as url:
        yield url


@pytest.fixture
def server(broker_url: str) -> Iterator[sa.Engine]:
    """The server as somebody else sees it."""
    engine = sa.create_engine(broker_url.removeprefix("database+"), isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


def send(app: Celery, task: str, numbers: range) -> None:
    for number in numbers:
        app.send_task(f"{APP}.{task}", (number,))


def runs(record: Record) -> Counter[int]:
    return Counter(int(line.split()[0]) for line in record.lines())


def wait_for_runs(record: Record, count: int) -> None:
    wait_until(lambda: len(record.lines()) >= count, timeout=100)


def waiting(app: Celery) -> int:
    with app.connection_for_read() as connection:
        return rows_of(connection.default_channel)


def cut_all(server: sa.Engine) -> int:
    """End every connection to the broker's database but this one, and say how many there were."""
    with server.connect() as other:
        if server.dialect.name == "postgresql":
            query = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return len(other.exec_driver_sql(query).all())
        query = "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
        ids = other.exec_driver_sql(query).scalars().all()
        for one in ids:
            try:
                other.exec_driver_sql(f"KILL {int(one)}")
            except sa.exc.OperationalError as error:
                assert "Unknown thread id" in str(error)  # noqa: PT017 - it has ended by itself
        return len(ids)


@pytest.mark.timeout(300)
def test_four_workers_take_no_message_twice(app: Celery, worker: StartWorker, record: Record) -> None:
    send(app, "note", range(1000))
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(*ALONE, concurrency=1)) for _ in range(4)]
        send(app, "note", range(1000, 2000))
        wait_until(lambda: len(record.lines()) >= 2000, timeout=200)
        wait_until(lambda: waiting(app) == 0)
    assert runs(record) == Counter(range(2000))
    assert {line.split()[1] for line in record.lines()} == {running.name for running in workers}


@pytest.mark.timeout(300)
def test_killed_workers_lose_nothing(app: Celery, worker: StartWorker, record: Record) -> None:
    send(app, "note_late", range(400))
    with ExitStack() as stack:
        workers = [
            stack.enter_context(worker(*ALONE, concurrency=1, options={"visibility_timeout": 3})) for _ in range(2)
        ]
        for killed, done in enumerate((40, 100, 160, 220)):
            wait_for_runs(record, done)
            workers[killed % 2].kill()
            workers[killed % 2].restart()
        wait_until(lambda: len(runs(record)) == 400, timeout=120)
        wait_until(lambda: waiting(app) == 0, timeout=60)
    assert set(runs(record)) == set(range(400))


@pytest.mark.timeout(300)
def test_connections_that_are_cut_at_full_speed_lose_nothing(
    app: Celery, worker: StartWorker, record: Record, server: sa.Engine
) -> None:
    send(app, "note_late", range(400))
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(worker(*ALONE, concurrency=1, options={"visibility_timeout": 5}))
        for done in (40, 120, 200, 280):
            wait_for_runs(record, done)
            wait_until(lambda: cut_all(server) >= 2)  # not while they are connecting again after the last time
        wait_until(lambda: len(runs(record)) == 400, timeout=120)
        wait_until(lambda: waiting(app) == 0, timeout=60)
    assert set(runs(record)) == set(range(400))


class Watched(ExitStack):
    """Remembers the process that it is to stop."""

    process: ManagedProcess

    def callback(self, callback: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.process = callback.__self__  # type: ignore[attr-defined]  # the process whose `stop` it is
        return super().callback(callback, *args, **kwargs)


class TestAServerThatIsStoppedAndStarted:
    @pytest.fixture(params=[pytest.param(name, marks=[*MARKS[name], pytest.mark.slow], id=name) for name in SERVERS])
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def own_server(self, kind: str) -> Iterator[tuple[str, ManagedProcess]]:
        with Watched() as closing:
            try:
                url = KINDS[kind].start(closing)
            except ServerMissingError as error:
                pytest.skip(f"needs {kind}: {error}")
            yield url, closing.process

    @pytest.fixture
    def broker_url(self, own_server: tuple[str, ManagedProcess]) -> str:
        migrate(BrokerOptions(own_server[0]))
        return f"database+{own_server[0]}"

    @pytest.mark.timeout(300)
    def test_loses_nothing_and_its_workers_come_back(
        self, app: Celery, worker: StartWorker, record: Record, own_server: tuple[str, ManagedProcess]
    ) -> None:
        process = own_server[1]
        send(app, "note_late", range(300))
        with worker(*ALONE, concurrency=1, options={"visibility_timeout": 5}) as running:
            wait_for_runs(record, 50)
            process.stop()
            running.wait_for_log("Trying again in", timeout=60)
            process.start()
            wait_until(lambda: len(runs(record)) == 300, timeout=120)
            wait_until(lambda: waiting(app) == 0, timeout=60)
            send(app, "note_late", range(300, 320))
            wait_until(lambda: len(runs(record)) == 320, timeout=60)
            assert running.is_running
        assert set(runs(record)) == set(range(320))
