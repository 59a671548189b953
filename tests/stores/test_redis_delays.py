"""What only a Redis store does with delayed jobs: it pushes those that are due to lists of its own server."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from redis import Redis

from celery_laravel.stores.memory import MemoryStore
from celery_laravel.stores.redis import RedisStore
from celery_laravel.stores.redis.urls import connection_pool
from celery_laravel.stores.servers import server_of
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore
from celery_laravel.testing.processes import wait_until
from celery_laravel.testing.store_suite.concurrency import THREADS, at_once
from celery_laravel.testing.store_suite.delays import delayed, entries

pytestmark = pytest.mark.redis
HOUR = timedelta(hours=1)


@pytest.fixture
def store(redis_store: RedisStore) -> RedisStore:
    return redis_store


def test_what_is_due_is_pushed_longest_due_first_and_no_more_than_asked_for(
    store: RedisStore, client: Redis, queue: str
) -> None:
    due = ((3, "c"), (1, "a"), (2, "b"))  # after one and the same instant
    store.delays.park([delayed(entry, delay=timedelta(milliseconds=number), target=queue) for number, entry in due])
    store.delays.park([delayed("late", delay=HOUR, target=queue)])
    time.sleep(0.05)  # until all three are due, by the server's clock
    assert [store.delays.move(limit=2) for _ in range(3)] == [2, 1, 0]
    assert client.lrange(queue, 0, -1) == [b"message of c", b"message of b", b"message of a"]
    assert entries(store.delays.all()) == ["late"]
    assert store.delays.count(queue="mails") == 1


def test_a_message_is_pushed_byte_for_byte(store: RedisStore, client: Redis, queue: str) -> None:
    text = 'naïve 🚀\n{"v": 1} \\n \r\n\t %s' + "x" * 100_000
    store.delays.park([delayed(message=text, target=queue)])
    wait_until(lambda: store.delays.move(limit=9) == 1, 5)
    assert client.lpop(queue) == text.encode()


def test_what_has_a_target_is_claimed_by_nobody(store: RedisStore, queue: str) -> None:
    store.delays.park([delayed("here", target=queue), delayed("there")])
    assert entries(store.delays.claim(limit=9, lease=HOUR)) == ["there"]
    assert store.delays.move(limit=9) == 1
    assert entries(store.delays.all()) == ["there"]
    store.delays.remove(["there"])


def test_a_revoked_message_is_pushed_at_once_as_another(store: RedisStore, client: Redis, queue: str) -> None:
    store.delays.park([delayed(delay=HOUR, target=queue)])
    assert store.delays.move(limit=9) == 0
    assert store.delays.revoke("entry", "it is revoked")
    wait_until(lambda: store.delays.move(limit=9) == 1, 5)
    assert client.lrange(queue, 0, -1) == [b"it is revoked"]
    assert store.delays.count() == 0


def test_a_list_that_does_not_take_its_message_keeps_no_other_waiting(
    store: RedisStore, client: Redis, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(f"{queue}-of-text", "no list")
    store.delays.park([delayed("bad", target=f"{queue}-of-text")])
    store.delays.park([delayed("good", target=queue)])
    with caplog.at_level(logging.ERROR, "celery_laravel"):
        wait_until(lambda: store.delays.move(limit=9) == 1, 5)
    assert client.llen(queue) == 1
    assert entries(store.delays.all()) == ["bad"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"1 for {queue}-of-text" in message
    assert "WRONGTYPE" in message
    assert store.delays.move(limit=9) == 0  # not again at once


def test_of_many_who_move_at_once_each_message_is_pushed_once(store: RedisStore, client: Redis, queue: str) -> None:
    names = [f"entry-{number}" for number in range(200)]
    store.delays.park([delayed(name, target=queue) for name in names])

    def move_until_there_is_none(_: int) -> int:
        moved = 0
        while number := store.delays.move(limit=7):
            moved += number
        return moved

    assert sum(at_once(move_until_there_is_none, threads=THREADS)) == 200
    assert sorted(client.lrange(queue, 0, -1)) == sorted(f"message of {name}".encode() for name in names)


def test_what_has_a_target_is_whole_in_every_view(store: RedisStore, queue: str) -> None:
    store.delays.park([delayed(delay=HOUR, target=queue)])
    (record,) = store.delays.all()
    assert record.target == queue
    assert store.delays.find("job of entry") == [record]
    assert replace(record, target=None).message == "message of entry"
    assert store.delays.remove(["entry"]) == 1
    assert store.delays.count(queue="mails") == 0


def test_nothing_is_left_of_what_has_gone(store: RedisStore, client: Redis, queue: str, redis_prefix: str) -> None:
    store.delays.park([delayed("one", target=queue), delayed("two"), delayed("three", delay=HOUR)])
    wait_until(lambda: store.delays.move(limit=9) == 1, 5)
    store.delays.remove(["two", "three"])
    assert list(client.scan_iter(f"{redis_prefix}:{{delays}}*")) == []


def test_a_store_that_pushes_nowhere_refuses_a_target() -> None:
    for store in (MemoryStore(), SQLAlchemyStore("sqlite://"), RedisStore("redis+cluster://127.0.0.1:7")):
        assert store.delays.server is None
        with pytest.raises(ValueError, match="without a target"):
            store.delays.park([delayed(target="list")])


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("redis://example:7/3", "redis://user:secret@example:7/3", True),
        ("redis://example:7/3", "redis://example:7/4", False),
        ("redis://example:7/3", "redis://example:8/3", False),
        ("redis://example/3", "redis://example:6379/3", True),
        ("rediss://example/3", "redis://example/3", True),
        ("redis://", "redis://localhost:6379/0", True),
        ("redis+socket:///run/a.sock", "redis+socket:///run/a.sock?db=0", True),
        ("redis+socket:///run/a.sock", "redis+socket:///run/b.sock", False),
        ("sentinel://a:1/1;sentinel://b:2/1?master_name=m", "sentinel://b:2/1;sentinel://a:1/1?master_name=m", True),
        ("sentinel://a:1/1?master_name=m", "sentinel://a:1/1?master_name=n", False),
        ("sentinel://a:1/1?master_name=m", "redis://a:1/1", False),
    ],
)
def test_two_urls_of_one_server_are_seen_to_be(one: str, other: str, is_same: bool) -> None:
    assert (server_of(connection_pool(one)) == server_of(connection_pool(other))) is is_same
