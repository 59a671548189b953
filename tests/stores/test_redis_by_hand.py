"""What the Redis store's scripts do as time passes, to the microsecond: the server's clock is moved by hand.

The scripts take the time from `time.lua` alone, which is put in place of one
that reads a key. So the state machines can let hours pass, and compare each
answer exactly, which no test can that waits for a server's clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from celery_laravel import clock
from celery_laravel.stores.contracts import Store
from celery_laravel.stores.redis import RedisStore, debounces, limits, locks, scripts
from celery_laravel.testing.store_suite import (
    Advance,
    DebounceSuite,
    LimitChangeSuite,
    LimitSuite,
    LockLeaseSuite,
    LockReleaseSuite,
    LockSuite,
    SetAsideSuite,
    SeveralWindowsSuite,
    VirtualTime,
)
from celery_laravel.testing.store_suite.limit_machine import check_limits
from celery_laravel.testing.store_suite.lock_machine import check_locks

pytestmark = pytest.mark.redis

TIME_BY_HAND = """
local function microseconds() return redis.call("GET", "%(clock)s") end
local function milliseconds() return math.floor(tonumber(microseconds()) / 1000) end
"""


class TimeOnServer(VirtualTime):
    """Moves the clock of this process, and the key that the scripts take for the server's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, client: Redis, key: str) -> None:
        super().__init__(monkeypatch)
        self._client, self._key = client, key
        self(timedelta())

    def __call__(self, interval: timedelta) -> None:
        super().__call__(interval)
        self._client.set(self._key, int(clock.now() * 1_000_000))


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch, client: Redis, redis_prefix: str) -> Advance:
    return TimeOnServer(monkeypatch, client, f"{redis_prefix}:clock")


@pytest.fixture
def store(
    monkeypatch: pytest.MonkeyPatch, client: Redis, redis_url: str, redis_prefix: str, advance: Advance
) -> Iterator[Store]:
    sources = scripts._sources

    def with_time_by_hand(file: str) -> dict[str, str]:
        found = sources(file)
        return found | {"time.lua": TIME_BY_HAND % {"clock": f"{redis_prefix}:clock"}} if "time.lua" in found else found

    monkeypatch.setattr(scripts, "_sources", with_time_by_hand)
    for module in (locks, limits, debounces):
        for name, value in vars(module).copy().items():
            if isinstance(value, scripts.Script):
                monkeypatch.setattr(module, name, scripts.Script(value.name))
    store = RedisStore(redis_url, redis_prefix)
    yield store
    store.close()
    client.unlink(*client.scan_iter(f"{redis_prefix}:*", count=1000))


class TestByHand(
    LockSuite,
    LockReleaseSuite,
    LockLeaseSuite,
    SetAsideSuite,
    LimitSuite,
    SeveralWindowsSuite,
    LimitChangeSuite,
    DebounceSuite,
):
    pass


def test_locks_follow_their_model_as_time_passes(store: Store, advance: Advance) -> None:
    check_locks(store, advance, examples=50, steps=40)


def test_limits_follow_their_model_as_time_passes(store: Store, advance: Advance) -> None:
    check_limits(store, advance, examples=100, steps=50)


def test_the_clock_is_moved_by_hand(store: Store, advance: Any) -> None:
    store.limits.hit("limiter", "key", seconds=60)
    assert store.limits.look("limiter", "key").ends_in == 60
    advance(timedelta(seconds=59))
    assert store.limits.look("limiter", "key").ends_in == pytest.approx(1, abs=1e-5)
