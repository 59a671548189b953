"""Which back ends the conformance suite runs on, and how each is made fresh and empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_laravel.stores.contracts import Store
from celery_laravel.stores.memory import MemoryStore
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore
from tests.stores import sql

if TYPE_CHECKING:
    from redis import Redis

    from celery_laravel.stores.redis import RedisStore
    from tests.stores.redis_servers import OwnServer

pytest.register_assert_rewrite("celery_laravel.testing.store_suite")

from celery_laravel.testing.store_suite import Advance, ServerTime, VirtualTime  # noqa: E402  rewritten first


@dataclass(frozen=True)
class BackEnd:
    """How to open a fresh and empty store, which is gone when the context ends.

    ``open`` may ask for fixtures, and may skip. ``server_clock`` says whose
    time the store goes by; ``marks`` are pytest's markers for the servers it needs.
    """

    open: Callable[[pytest.FixtureRequest], AbstractContextManager[Store]]
    server_clock: bool
    marks: tuple[pytest.MarkDecorator, ...] = ()


@contextmanager
def memory(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield MemoryStore()


@contextmanager
def redis(request: pytest.FixtureRequest) -> Iterator[RedisStore]:
    from celery_laravel.stores.redis import RedisStore

    url, prefix = request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix")
    store = RedisStore(url, prefix)
    yield store
    store.close()
    remove_keys(url, prefix)


def remove_keys(url: str, prefix: str) -> None:
    """Remove what a test left under its prefix."""
    from redis import Redis

    with Redis.from_url(url) as client:
        for key in client.scan_iter(f"{prefix}:*", count=1000):
            client.unlink(key)


@pytest.fixture
def redis_store(request: pytest.FixtureRequest) -> Iterator[RedisStore]:
    """A Redis store, fresh and empty, on the server that all tests share; see `client`."""
    with redis(request) as store:
        yield store


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    """A client of the Redis server that all tests share."""
    from redis import Redis

    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def queue(redis_prefix: str) -> str:
    """A list on the shared Redis server that is removed with the store's keys."""
    return f"{redis_prefix}:queue"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OwnServer]:
    """A Redis server of the test's own."""
    from tests.stores.redis_servers import own_server

    with own_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def own_store(server: OwnServer) -> Iterator[RedisStore]:
    """A store on the Redis server of the test's own."""
    from celery_laravel.stores.redis import RedisStore

    store = RedisStore(server.url)
    yield store
    store.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that cannot be made are given up at the third try."""
    from celery_laravel.stores.redis import faults

    monkeypatch.setattr(faults, "PAUSES", (0.0, 0.02))


BACK_ENDS: dict[str, BackEnd] = {
    "memory": BackEnd(memory, server_clock=False),
    "redis": BackEnd(redis, server_clock=True, marks=(pytest.mark.redis,)),
    "sqlite": BackEnd(sql.sqlite, server_clock=False),
    "postgresql": BackEnd(sql.postgresql, server_clock=True, marks=(pytest.mark.postgresql,)),
    "mariadb": BackEnd(sql.mariadb, server_clock=True, marks=(pytest.mark.mariadb,)),
}


@pytest.fixture(params=[pytest.param(name, marks=back_end.marks) for name, back_end in BACK_ENDS.items()])
def back_end(request: pytest.FixtureRequest) -> BackEnd:
    return BACK_ENDS[request.param]


@pytest.fixture
def advance(back_end: BackEnd, monkeypatch: pytest.MonkeyPatch) -> Advance:
    return ServerTime() if back_end.server_clock else VirtualTime(monkeypatch)


@pytest.fixture
def store(back_end: BackEnd, request: pytest.FixtureRequest) -> Iterator[Store]:
    with back_end.open(request) as store:
        yield store


_SERVERS = [
    pytest.param("postgresql", marks=pytest.mark.postgresql),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]


@pytest.fixture(params=["sqlite", *_SERVERS])
def sql_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLAlchemyStore]:
    """An SQL store, fresh and empty, on each kind of database."""
    if request.param != "sqlite":
        with sql.on_server(request.getfixturevalue(f"{request.param}_url")) as store:
            yield store
        return
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/store.db")
    yield store
    store.close()


@pytest.fixture(params=_SERVERS)
def sql_server(request: pytest.FixtureRequest) -> Iterator[SQLAlchemyStore]:
    """An SQL store, fresh and empty, on each kind of server."""
    with sql.on_server(request.getfixturevalue(f"{request.param}_url")) as store:
        yield store
