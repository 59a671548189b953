"""What the Redis store sends without waiting for the answer: the end of a job's last turn."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from celery_laravel.stores.records import StartStatus
from celery_laravel.stores.redis import RedisStore
from celery_laravel.stores.redis.connections import MOST_OWED
from celery_laravel.testing.processes import wait_until
from celery_laravel.testing.store_suite.attempts import begin, final
from tests.stores.redis_servers import OwnServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.redis

HOUR = timedelta(hours=1)


@pytest.fixture
def store(own_store: RedisStore) -> RedisStore:
    return own_store


@pytest.fixture
def client(server: OwnServer) -> Iterator[Redis]:
    with Redis.from_url(server.url) as client:
        yield client


def settle(store: RedisStore, job: str = "job") -> None:
    store.settle(member=None, attempt=final(job=job), keep=HOUR)


@pytest.mark.parametrize("before", [0, 1])
def test_it_arrives_though_nothing_else_is_asked(store: RedisStore, server: OwnServer, before: int) -> None:
    for number in range(before):
        begin(store, f"before-{number}")
        settle(store, f"before-{number}")
    begin(store)
    settle(store)
    another = RedisStore(server.url)
    wait_until(lambda: begin(another).status is StartStatus.OVER, 5)
    another.close()


def test_it_is_sent_again_when_the_server_has_forgotten_the_scripts(store: RedisStore, client: Redis) -> None:
    settle(store, "another")
    begin(store)
    client.script_flush()
    settle(store)
    store.ping()
    assert begin(store).status is StartStatus.OVER


def test_it_is_sent_again_when_its_connection_is_lost(store: RedisStore, client: Redis) -> None:
    settle(store, "another")
    begin(store)
    client.script_flush()  # so that it cannot have been done before the connection goes
    settle(store)
    client.client_kill_filter(_type="normal", skipme=True)
    store.ping()
    assert begin(store).status is StartStatus.OVER


def test_the_answers_of_others_are_not_taken_for_its_own(store: RedisStore) -> None:
    for number in range(3 * MOST_OWED):
        job = f"job-{number}"
        assert begin(store, job).attempt == 1
        settle(store, job)
    for number in range(3 * MOST_OWED):
        settle(store, f"job-{number}")
    assert all(begin(store, f"job-{number}").status is StartStatus.OVER for number in range(3 * MOST_OWED))


def test_a_store_that_is_gone_is_noticed_at_once_or_with_the_next_call(store: RedisStore, server: OwnServer) -> None:
    settle(store, "another")
    begin(store)
    server.stop()
    settle(store)  # the connection takes it; nobody is there to answer
    server.start()
    assert begin(store, "a third").attempt == 1
    assert begin(store).status is StartStatus.OVER
