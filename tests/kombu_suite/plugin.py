"""kombu's own tests meet this library's brokers: the names they import and connect to are changed before that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from kombu import transport
from kombu.transport import redis as kombus

from celery_laravel.transport.redis.channel import Channel, SentinelChannel
from celery_laravel.transport.redis.poller import Poller
from celery_laravel.transport.redis.qos import QoS
from celery_laravel.transport.redis.transport import SentinelTransport, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.servers import Servers

pytest_plugins = ["tests.servers.fixtures"]

OURS: tuple[Any, ...] = (Channel, SentinelChannel, QoS, Transport, SentinelTransport)
HERE = Path(__file__).parent


def pytest_configure() -> None:
    for ours in OURS:
        setattr(kombus, ours.__name__, ours)
    kombus.MultiChannelPoller = Poller
    here = Transport.__module__
    for alias in ("redis", "rediss"):
        transport.TRANSPORT_ALIASES[alias] = f"{here}:Transport"
    transport.TRANSPORT_ALIASES["sentinel"] = f"{here}:SentinelTransport"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the exceptions to fail; one that passes is an exception no more, and fails the run."""
    lines = (HERE / "exceptions.txt").read_text().splitlines()
    reasons = dict(line.split("\t") for line in lines if line and not line.startswith("#"))
    known = set()
    for item in items:
        name = f"{item.path.name}::{item.nodeid.partition('::')[2].partition('[')[0]}"
        if name in reasons:
            known.add(name)
            item.add_marker(pytest.mark.xfail(reason=reasons[name], strict=True))
    files = {item.path.name for item in items}
    unknown = {name for name in set(reasons) - known if name.partition("::")[0] in files}
    if unknown:
        raise pytest.UsageError(f"exceptions.txt names what is no test of this kombu: {', '.join(sorted(unknown))}")


@pytest.fixture(scope="session", autouse=True)
def private_redis(servers: Servers) -> Iterator[None]:
    """A Redis server for this run alone: some of these tests expect queues to be empty that they leave full."""
    server = servers.start_private("redis")
    os.environ["REDIS_6379_TCP"] = str(urlsplit(server.url).port)
    yield
    server.close()
