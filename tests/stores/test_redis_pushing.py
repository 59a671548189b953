"""What only a Redis store does with locks: it pushes a message in the step that takes one."""

from __future__ import annotations

from datetime import timedelta

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from celery_laravel.stores.contracts import Store
from celery_laravel.stores.memory import MemoryStore
from celery_laravel.stores.records import LockAnswer, LockRequest
from celery_laravel.stores.redis import RedisStore
from celery_laravel.stores.redis.connections import Connections
from celery_laravel.stores.servers import server_of
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore
from celery_laravel.testing.store_suite.concurrency import at_once
from celery_laravel.testing.store_suite.locks import owners

pytestmark = pytest.mark.redis
HOUR = timedelta(hours=1)


@pytest.fixture
def store(redis_store: RedisStore) -> RedisStore:
    return redis_store


def push(store: Store, queue: str, owner: str = "a", message: str = "message", **given: object) -> LockAnswer:
    request = LockRequest("lock", owner, "unique", "send", **given)  # type: ignore[arg-type]
    return store.locks.acquire_and_push(request, target=queue, message=message)


def test_the_lock_is_taken_and_the_message_pushed(store: RedisStore, client: Redis, queue: str) -> None:
    assert push(store, queue) == LockAnswer(True, "a", None)
    assert client.lrange(queue, 0, -1) == [b"message"]
    assert owners(store) == ["a"]
    assert store.locks.release(["lock"], owner="a") == {"lock": None}


def test_where_the_lock_is_refused_nothing_is_pushed(store: RedisStore, client: Redis, queue: str) -> None:
    push(store, queue, ttl=HOUR)
    answer = push(store, queue, "b", "another", payload="newest")
    assert (answer.acquired, answer.owner) == (False, "a")
    assert client.llen(queue) == 1
    assert store.locks.release(["lock"], owner="a") == {"lock": "newest"}, "what is left with the holder is left"


def test_a_message_is_pushed_byte_for_byte_and_behind_those_that_wait(
    store: RedisStore, client: Redis, queue: str
) -> None:
    text = 'naïve 🚀\n{"v": 1} \\n \r\n\t %s' + "x" * 100_000
    client.lpush(queue, "first")
    push(store, queue, message=text)
    assert client.lrange(queue, 0, -1) == [text.encode(), b"first"]


def test_who_holds_the_lock_takes_it_again_and_the_message_is_pushed_again(
    store: RedisStore, client: Redis, queue: str
) -> None:
    push(store, queue)
    answer = push(store, queue, message="again", ttl=HOUR)
    assert (answer.acquired, answer.was_held) == (True, True)
    assert client.lrange(queue, 0, -1) == [b"again", b"message"]


def test_a_queue_that_is_no_list_leaves_the_lock_free(store: RedisStore, client: Redis, queue: str) -> None:
    client.set(queue, "something else")
    with pytest.raises(ResponseError, match="is no list but a string"):
        push(store, queue)
    assert owners(store) == []
    assert store.locks.all() == []
    client.delete(queue)
    assert push(store, queue).acquired


def test_of_many_at_once_one_is_pushed(store: RedisStore, client: Redis, queue: str) -> None:
    answers = at_once(lambda number: push(store, queue, str(number)))
    assert sum(answer.acquired for answer in answers) == 1
    assert {answer.owner for answer in answers} == set(owners(store))
    assert client.llen(queue) == 1


@pytest.mark.parametrize("has_run", [False, True], ids=["waits", "has run"])
def test_a_call_whose_answer_was_lost_pushes_once(
    store: RedisStore, client: Redis, queue: str, monkeypatch: pytest.MonkeyPatch, has_run: bool
) -> None:
    push(store, f"{queue}:other", "warm")  # the script is known
    store.locks.free("lock")
    exchange = Connections._exchange

    def lose_one(self: Connections, commands: list[bytes]) -> list[object]:
        exchange(self, commands)
        monkeypatch.setattr(Connections, "_exchange", exchange)
        if has_run:
            store.locks.free("lock")
        raise RedisConnectionError("Connection closed by server.")

    monkeypatch.setattr(Connections, "_exchange", lose_one)
    assert push(store, queue) == LockAnswer(True, "a", None)
    assert client.llen(queue) == 1
    assert owners(store) == ([] if has_run else ["a"])


def test_what_is_remembered_of_a_call_is_forgotten(
    store: RedisStore, client: Redis, queue: str, redis_prefix: str
) -> None:
    push(store, queue)
    store.locks.release(["lock"], owner="a")
    client.delete(queue)
    lasts = [client.pttl(key) for key in client.scan_iter(f"{redis_prefix}*")]
    assert lasts
    assert all(0 < milliseconds <= 60_000 for milliseconds in lasts)


def test_the_store_knows_its_server(store: RedisStore, client: Redis) -> None:
    assert store.locks.server == server_of(client.connection_pool)


def test_other_stores_have_none() -> None:
    for store in (MemoryStore("memory://", "p"), SQLAlchemyStore("sqlite://")):
        assert store.locks.server is None
        with pytest.raises(NotImplementedError):
            push(store, "queue")
