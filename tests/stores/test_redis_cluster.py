"""The store on a Redis Cluster does what the contracts say, and each of its steps stays on one node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

import pytest

from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.contracts import Store
from celery_laravel.stores.records import MemberState, NewBatch
from celery_laravel.stores.redis import RedisStore
from celery_laravel.testing.store_suite import Advance, ServerTime, StoreSuite
from celery_laravel.testing.store_suite.attempts import begin, final, started
from celery_laravel.testing.store_suite.batch_help import ending, found, make, succeed
from tests.stores.redis_servers import OwnServer, own_cluster

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[OwnServer]]:
    with own_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
def url(nodes: list[OwnServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


@pytest.fixture
def store(url: str, nodes: list[OwnServer]) -> Iterator[Store]:
    store = RedisStore(url)
    yield store
    store.close()
    for node in nodes:
        with node.client() as client:
            client.flushall()


@pytest.fixture
def advance() -> Advance:
    return ServerTime()


class TestRedisCluster(StoreSuite):
    examples = 10


def test_batches_are_spread_over_the_nodes(store: Store, nodes: list[OwnServer]) -> None:
    for number in range(60):
        store.batches.create(NewBatch(f"batch-{number}"))
        store.batches.close(f"batch-{number}")
    counts = []
    for node in nodes:
        with node.client() as client:
            counts.append(sum(1 for _ in client.scan_iter("laravel:{batches-*}:batch:*")))
    assert sum(counts) == 60
    assert min(counts) > 5
    assert len(store.batches.all(limit=100)) == 60


def test_one_node_is_enough_to_find_the_others(nodes: list[OwnServer]) -> None:
    for separator in (",127.0.0.1:", ";redis+cluster://127.0.0.1:"):
        store = RedisStore(f"redis+cluster://127.0.0.1:{nodes[2].port}{separator}1?socket_timeout=2")
        store.ping()
        assert store.batches.due(older_than=timedelta()) == []
        store.close()


def test_a_node_of_a_cluster_is_no_server_of_its_own(nodes: list[OwnServer]) -> None:
    stores = [RedisStore(node.url) for node in nodes]
    told = []
    for store in stores:
        try:
            store.batches.create(NewBatch("batch"))
        except StoreUnavailableError as error:
            told.append(str(error))
        store.close()
    assert len(told) == 2, "the batch's slot is on one node"
    assert all("redis+cluster://" in text for text in told)


def test_scripts_that_were_flushed_are_sent_again(store: Store, nodes: list[OwnServer]) -> None:
    def flush() -> None:
        for node in nodes:
            with node.client() as client:
                client.script_flush()

    make(store, 4)
    for index in range(2):
        flush()
        assert begin(store, f"job-{index}") == started(1)
        flush()
        store.settle(
            member=ending(index, MemberState.SUCCEEDED), attempt=final(job=f"job-{index}"), keep=timedelta(hours=1)
        )
    flush()
    assert found(store).pending_jobs == 2


def test_a_forked_process_makes_connections_of_its_own(store: Store, nodes: list[OwnServer]) -> None:
    """Answers would be mixed up else: parent and children ask at the same time."""
    make(store, 40)
    assert succeed(store, 0).changed
    children = []
    for child in range(1, 4):
        pid = os.fork()
        if pid == 0:
            try:
                for index in range(child * 10, child * 10 + 10):
                    assert succeed(store, index).changed
                    assert begin(store, f"job-{index}") == started(1)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(pid)
    for index in range(1, 10):
        assert succeed(store, index).changed
        assert begin(store, f"job-{index}") == started(1)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert found(store).pending_jobs == 0
