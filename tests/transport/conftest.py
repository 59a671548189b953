"""The suite of the database broker; a database joins by a factory of empty brokers in `BROKERS`."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from celery import Celery
from kombu import Connection, pools

import celery_laravel.clock
from celery_laravel.transport import register
from celery_laravel.transport.database.dialects.mysql import MySQLDialect
from celery_laravel.transport.database.dialects.postgresql import PostgreSQLDialect
from celery_laravel.transport.database.dialects.sqlite import SQLiteDialect
from celery_laravel.transport.database.migrating import migrate
from celery_laravel.transport.database.options import BrokerOptions
from celery_laravel.transport.database.tables import Tables
from tests.support.worker import RunningWorker, running_worker, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    StartWorker = Callable[..., AbstractContextManager[RunningWorker]]

APP = "tests.transport.worker_app"

register()


@pytest.fixture(autouse=True)
def no_pooled_connections() -> Iterator[None]:
    """Kombu pools connections by their URL, so a test would inherit one whose server side an earlier test has cut."""
    yield
    pools.reset()


@contextmanager
def sqlite(request: pytest.FixtureRequest) -> Iterator[str]:
    yield f"database+sqlite:///{request.getfixturevalue('tmp_path') / 'broker.db'}"


@contextmanager
def postgresql(request: pytest.FixtureRequest) -> Iterator[str]:
    with emptied(request.getfixturevalue("postgresql_url")) as url:
        yield url


@contextmanager
def mariadb(request: pytest.FixtureRequest) -> Iterator[str]:
    with emptied(request.getfixturevalue("mariadb_url")) as url:
        yield url


@contextmanager
def emptied(url: str) -> Iterator[str]:
    """A broker on a server, whose tables are emptied after the test."""
    options = BrokerOptions(url)
    migrate(options)
    yield f"database+{url}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        tables = Tables(options.table_prefix)
        for table in (tables.messages, tables.queues, tables.bindings):
            connection.execute(table.delete())
    engine.dispose()


BROKERS = {"sqlite": sqlite, "postgresql": postgresql, "mariadb": mariadb}
MARKS = {"postgresql": [pytest.mark.postgresql], "mariadb": [pytest.mark.mariadb]}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, []), id=name) for name in BROKERS])
def broker_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty broker."""
    with BROKERS[request.param](request) as url:
        yield url


@pytest.fixture
def connect(broker_url: str) -> Iterator[Callable[..., Connection]]:
    """Connect to the broker, with transport options as keywords; closed after the test."""
    opened: list[Connection] = []

    def make(url: str = broker_url, **options: Any) -> Connection:
        connection = Connection(url, transport_options=options)
        opened.append(connection)
        return connection

    yield make
    for connection in opened:
        connection.close()


class Clock:
    """The time as the broker sees it."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def now(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that stands still until it is moved; servers go by it too."""
    clock = Clock()
    monkeypatch.setattr(celery_laravel.clock, "now", clock.now)
    for dialect in (PostgreSQLDialect, MySQLDialect):
        monkeypatch.setattr(dialect, "now", SQLiteDialect.now)
    return clock


def rows_of(channel: Any, queue: str = "celery") -> int:
    """How many messages a queue has, held and delayed ones included."""
    columns = channel.messages._messages.c
    query = sa.select(sa.func.count()).where(columns.queue == queue)
    return int(channel.connection.database.run(lambda connection: connection.execute(query).scalar_one()))


def hidden_until(channel: Any, queue: str = "celery", which: Any = sa.func.max) -> float:
    """When the last message of a queue, or the first, will show by itself."""
    columns = channel.messages._messages.c
    query = sa.select(which(columns.visible_at)).where(columns.queue == queue)
    return float(channel.connection.database.run(lambda connection: connection.execute(query).scalar_one()))


class Record:
    """What the tasks wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def wait_for(self, *lines: str, timeout: float = 30) -> None:
        wait_until(lambda: not Counter(lines) - Counter(self.lines()), timeout, message=f"{lines} in the record")

    def let_go(self, name: str) -> None:
        """End the tasks that block on ``name``."""
        self.path.with_name(name).touch()


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")


@pytest.fixture
def app(broker_url: str) -> Iterator[Celery]:
    app = Celery("client", broker=broker_url, set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def worker(broker_url: str, record: Record) -> StartWorker:
    def start(*args: str, **kwargs: Any) -> Any:
        return start_worker(broker_url, record, *args, **kwargs)

    return start


def start_worker(
    broker_url: str,
    record: Record,
    *args: str,
    options: dict[str, Any] | None = None,
    prefetch: int = 4,
    transport: str = "",
    acks_late: bool = False,
    **kwargs: Any,
) -> AbstractContextManager[RunningWorker]:
    env = {
        "BROKER_URL": broker_url,
        "RECORD": str(record.path),
        "BROKER_OPTIONS": json.dumps(options or {}),
        "PREFETCH": str(prefetch),
        "TRANSPORT": transport,
        "ACKS_LATE": str(int(acks_late)),
    }
    return running_worker(APP, args=args, env=env, **kwargs)


class Contents:
    """What a broker still has for workers."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def left(self) -> int:
        """Messages that wait, are held, or delayed."""
        return int(self._ask(rows_of))

    def waiting(self) -> int:
        """Messages that a worker could take now."""
        return int(self._ask(lambda channel: channel.queue_declare("celery", passive=True).message_count))

    def heard_of(self) -> float:
        """When the holder was last heard of that was not heard of for longest, or later by a constant."""
        return float(self._ask(lambda channel: hidden_until(channel, which=sa.func.min)))

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        with self.app.connection_for_read() as connection:
            return question(connection.default_channel)


@pytest.fixture
def contents(app: Celery) -> Contents:
    return Contents(app)


@pytest.fixture
def ordered() -> tuple[dict[str, list[int]], list[str]]:
    """Priorities of messages for each queue, and in which order they come with the strategy ``priority``."""
    return {"low": [0, 0], "high": [1, 5, 9]}, ["high9", "high5", "high1", "low0", "low0"]
