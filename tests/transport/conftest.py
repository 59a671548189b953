"""The suite of the database broker; a database joins by a factory of empty brokers in `BROKERS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection

import celery_laravel.clock
from celery_laravel.transport import register

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

register()


def sqlite_broker(tmp_path: Path) -> str:
    return f"database+sqlite:///{tmp_path / 'broker.db'}"


BROKERS = {"sqlite": sqlite_broker}


@pytest.fixture(params=list(BROKERS))
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty broker."""
    return BROKERS[request.param](tmp_path)


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
    """A clock that stands still until it is moved."""
    clock = Clock()
    monkeypatch.setattr(celery_laravel.clock, "now", clock.now)
    return clock
