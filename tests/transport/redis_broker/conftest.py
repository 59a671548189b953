"""A Redis server of these tests' own, whose keys can be looked at, emptied before each test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kombu
import pytest
import redis
from celery import Celery

from celery_laravel import install
from celery_laravel.transport.redis.connection import Connection
from tests.servers.contract import Server, ServerMissingError
from tests.transport.conftest import Contents, Record, start_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.servers import Servers
    from tests.transport.conftest import StartWorker


@pytest.fixture(scope="session")
def broker_server(servers: Servers, redis_url: str) -> Iterator[Server]:
    """The server; where there is no Redis at all, ``redis_url`` has said so."""
    try:
        server = servers.start_private("redis")
    except ServerMissingError as error:
        pytest.skip(str(error))
    yield server
    server.close()


@pytest.fixture
def broker_url(broker_server: Server, client: Any) -> str:
    """The URL of an empty broker."""
    return broker_server.url


@pytest.fixture
def client(broker_server: Server) -> Iterator[Any]:
    """The server's database, emptied."""
    client = redis.Redis.from_url(broker_server.url, decode_responses=True)
    client.flushdb()
    yield client
    client.close()


@pytest.fixture
def connect(broker_url: str) -> Iterator[Callable[..., kombu.Connection]]:
    """Connect by the library's transport, with transport options as keywords; closed after the test."""
    yield from _connecting(Connection, broker_url)


@pytest.fixture
def connect_plainly(broker_url: str) -> Iterator[Callable[..., kombu.Connection]]:
    """Connect by kombu's transport."""
    yield from _connecting(kombu.Connection, broker_url)


def _connecting(cls: type[kombu.Connection], broker_url: str) -> Iterator[Callable[..., kombu.Connection]]:
    opened: list[kombu.Connection] = []

    def make(url: str = broker_url, **options: Any) -> kombu.Connection:
        connection = cls(url, transport_options=options)
        opened.append(connection)
        return connection

    yield make
    for connection in opened:
        connection.close()


class RedisContents(Contents):
    """What the server still has for workers."""

    def __init__(self, app: Celery, client: Any) -> None:
        super().__init__(app)
        self.client = client

    def left(self) -> int:
        return int(self.client.llen("celery") + self.client.hlen("unacked"))

    def waiting(self) -> int:
        return int(self.client.llen("celery"))

    def heard_of(self) -> float:
        return float(self.client.zrange("unacked_index", 0, 0, withscores=True)[0][1])


@pytest.fixture
def app(broker_url: str) -> Iterator[Celery]:
    app = install(Celery("client", broker=broker_url, set_as_current=False))
    yield app
    app.close()


@pytest.fixture
def contents(app: Celery, client: Any) -> Contents:
    return RedisContents(app, client)


@pytest.fixture
def worker(broker_url: str, record: Record) -> StartWorker:
    def start(*args: str, transport: str = "safe", **kwargs: Any) -> Any:
        return start_worker(broker_url, record, *args, transport=transport, **kwargs)

    return start


@pytest.fixture
def ordered() -> tuple[dict[str, list[int]], list[str]]:
    """A priority's lists of all queues come before those of the next, as kombu has it."""
    return {"low": [0, 0], "high": [6, 3, 0]}, ["high0", "low0", "low0", "high3", "high6"]


def send(connection: kombu.Connection, *bodies: Any, queue: str = "jobs", **options: Any) -> None:
    producer = connection.Producer()
    for body in bodies:
        producer.publish(body, routing_key=queue, **options)


def get(connection: kombu.Connection, queue: str = "jobs", **options: Any) -> Any:
    return connection.default_channel.basic_get(queue, **options)


def age(client: Any, seconds: float, prefix: str = "") -> None:
    """Make it as long since the holders of all messages were heard of."""
    for tag, score in client.zrange(f"{prefix}unacked_index", 0, -1, withscores=True):
        client.zadd(f"{prefix}unacked_index", {tag: score - seconds})
