"""Connections of the Redis store: lost, inherited, interrupted, refused."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.records import AttemptEnd, MemberEnd, MemberState, NewBatch, StartStatus
from celery_laravel.stores.redis import RedisStore
from celery_laravel.stores.redis.connections import Connections
from celery_laravel.testing.processes import wait_until
from celery_laravel.testing.store_suite.attempts import begin, final, started
from celery_laravel.testing.store_suite.batch_help import ending, fail, found, make, succeed
from celery_laravel.testing.store_suite.failed_jobs import failed
from tests.stores.redis_servers import OwnServer, own_server

pytestmark = pytest.mark.redis

HOUR = timedelta(hours=1)


@pytest.fixture
def lose_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Afterwards, the answer of every call's first try is lost on its way back."""

    def lose() -> None:
        exchange = Connections._exchange
        lost: set[int] = set()

        def once(self: Connections, commands: list[bytes]) -> list[Any]:
            answers = exchange(self, commands)
            what = hash(commands[0].rpartition(b"EVAL")[2][-80:])
            if what not in lost:
                lost.add(what)
                raise RedisConnectionError("Connection closed by server.")
            return answers

        monkeypatch.setattr(Connections, "_exchange", once)

    return lose


def test_connections_that_were_lost_are_made_anew_however_often(server: OwnServer) -> None:
    """redis-py 8 let a pool make a hundred in its life: a process that had tried as often reached its store no more."""
    connections = Connections(server.url)
    for _ in range(120):
        assert connections.command("PING") == b"PONG"
        connections.close()


def test_nothing_is_connected_before_the_first_call(server: OwnServer) -> None:
    with server.client() as client:
        before = client.info("stats")["total_connections_received"]
        store = RedisStore(server.url)
        assert client.info("stats")["total_connections_received"] == before
        store.ping()
        assert client.info("stats")["total_connections_received"] == before + 1
        store.close()


def test_calls_one_after_another_share_a_connection(server: OwnServer, own_store: RedisStore) -> None:
    make(own_store, 50)
    for index in range(50):
        begin(own_store, f"job-{index}")
        own_store.settle(member=ending(index, MemberState.SUCCEEDED), attempt=final(job=f"job-{index}"), keep=HOUR)
    with server.client() as client:
        assert len(client.client_list()) == 2, "the store's, and the one that asks"


def test_settling_is_one_call(server: OwnServer, own_store: RedisStore) -> None:
    make(own_store, 2)
    own_store.settle(member=ending(0, MemberState.SUCCEEDED), attempt=final(), keep=HOUR)
    with server.client() as client:
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        own_store.settle(member=ending(1, MemberState.SUCCEEDED), attempt=final(job="other"), keep=HOUR)
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1
        assert client.info("commandstats")["cmdstat_eval"]["calls"] > 0, "scripts are sent when they are not known"


def test_scripts_that_were_flushed_are_sent_again(server: OwnServer, own_store: RedisStore) -> None:
    make(own_store, 4)
    with server.client() as client:
        for index in range(2):
            client.script_flush()
            assert begin(own_store, f"job-{index}") == started(1)
            client.script_flush()
            own_store.settle(member=ending(index, MemberState.SUCCEEDED), attempt=final(job=f"job-{index}"), keep=HOUR)
        client.script_flush()
        assert len(own_store.batches.all()) == 1
    assert found(own_store).pending_jobs == 2


def test_a_lost_connection_is_made_anew(server: OwnServer, own_store: RedisStore) -> None:
    begin(own_store)
    with server.client() as client:
        for attempt in range(2, 5):
            client.client_kill_filter(_type="normal", skipme=True)
            assert begin(own_store) == started(attempt)


def test_all_idle_connections_may_be_lost_at_once(server: OwnServer, own_store: RedisStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: begin(own_store, f"job-{number}"), range(200)))
        with server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        starts = list(pool.map(lambda number: begin(own_store, f"job-{number}"), range(200)))
    assert {start.attempt for start in starts} == {2}


def test_a_server_that_was_restarted_is_found_again(server: OwnServer, own_store: RedisStore) -> None:
    begin(own_store)
    server.stop()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(begin, own_store)
        server.start()
        assert waiting.result(30) == started(1), "it came back empty, and the call waited for it"


def test_a_server_that_is_gone_is_said_to_be_gone_within_seconds(server: OwnServer) -> None:
    store = RedisStore(server.url.replace("redis://", "redis://user:s3cret@"))
    server.stop()
    asked = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=str(server.port)) as raised:
        begin(store)
    assert time.monotonic() - asked < 8
    assert "s3cret" not in str(raised.value)
    assert raised.value.url == f"redis://user:***@127.0.0.1:{server.port}/0"
    assert isinstance(raised.value.__cause__, RedisConnectionError)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_answer_is_given_up(server: OwnServer) -> None:
    store = RedisStore(server.url + "?socket_timeout=0.3")
    store.ping()
    server.process.send(signal.SIGSTOP)
    asked = time.monotonic()
    try:
        with pytest.raises(StoreUnavailableError):
            store.ping()
    finally:
        server.process.send(signal.SIGCONT)
    assert time.monotonic() - asked < 8
    store.ping()
    store.close()


@pytest.mark.usefixtures("impatient")
def test_a_replica_is_no_store(server: OwnServer, own_store: RedisStore) -> None:
    begin(own_store)
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailableError, match="READONLY"):
            begin(own_store)


def test_a_replica_is_a_store_once_it_is_the_master(server: OwnServer, own_store: RedisStore) -> None:
    begin(own_store)
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        promotion = threading.Timer(0.3, client.execute_command, ("REPLICAOF", "NO", "ONE"))
        promotion.start()
        assert begin(own_store) == started(2)
        promotion.join()


def test_a_server_without_memory_is_no_store(server: OwnServer, own_store: RedisStore) -> None:
    with server.client() as client:
        client.config_set("maxmemory", "1mb")
        client.config_set("maxmemory-policy", "noeviction")
        with pytest.raises(StoreUnavailableError, match="OOM"):
            make(own_store, 1)
        client.config_set("maxmemory", "0")
    make(own_store, 1)


def test_a_server_that_has_no_room_for_another_client_is_unavailable_until_it_has(server: OwnServer) -> None:
    store = RedisStore(server.url)
    with server.client() as client:
        client.ping()
        room = client.config_get("maxclients")["maxclients"]
        client.config_set("maxclients", "1")
        asked = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="max number of clients"):
            begin(store)
        assert 1 < time.monotonic() - asked < 10, "it is waited for, and not for ever"
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(begin, store)
            client.config_set("maxclients", room)
            assert waiting.result(30) == started(1)
    store.close()


def test_a_wrong_password_is_told_at_once(tmp_path: Path) -> None:
    with own_server(tmp_path / "redis") as server, server.client() as client:
        client.config_set("requirepass", "right")
        for url in (server.url, server.url.replace("redis://", "redis://:wr0ng@")):
            store = RedisStore(url)
            asked = time.monotonic()
            with pytest.raises(StoreUnavailableError) as raised:
                store.ping()
            assert "wr0ng" not in str(raised.value)
            assert time.monotonic() - asked < 1
        store = RedisStore(server.url.replace("redis://", "redis://:right@"))
        store.ping()
        store.close()


def test_a_mistake_in_a_call_is_not_taken_for_a_server_that_is_gone(own_store: RedisStore, server: OwnServer) -> None:
    with server.client() as client:
        client.rpush("laravel:{batches}:batch:batch", "not a hash")
        own_store.ping()
        before = {peer["id"] for peer in client.client_list()}
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            own_store.batches.find("batch")
        own_store.ping()
        assert {peer["id"] for peer in client.client_list()} == before, "an answer is an answer: the connection is kept"


def test_a_forked_process_makes_connections_of_its_own(own_store: RedisStore, server: OwnServer) -> None:
    make(own_store, 40)
    succeed(own_store, 0)
    children = []
    for child in range(1, 4):
        pid = os.fork()
        if pid == 0:
            try:
                for index in range(child * 10, child * 10 + 10):
                    assert succeed(own_store, index).changed
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(pid)
    for index in range(1, 10):
        assert succeed(own_store, index).changed
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert found(own_store).pending_jobs == 0
    with server.client() as client:
        wait_until(lambda: len(client.client_list()) == 2, message="the end of the children's connections")


def test_an_exception_from_outside_does_not_shift_the_answers(own_store: RedisStore, server: OwnServer) -> None:
    class TimeUpError(Exception):
        pass

    def time_up(signum: int, frame: object) -> None:
        raise TimeUpError

    begin(own_store, "before")
    previous = signal.signal(signal.SIGALRM, time_up)
    try:
        with server.client() as client:
            client.client_pause(300)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(TimeUpError):
            begin(own_store, "interrupted", attempts=41)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert begin(own_store, "after") == started(1)
    assert begin(own_store, "before") == started(2)


def test_a_call_whose_answer_was_lost_is_made_again_and_does_nothing_twice(
    own_store: RedisStore, lose_answers: Callable[[], None]
) -> None:
    lose_answers()
    assert begin(own_store) == started(1)
    assert begin(own_store) == started(2)
    own_store.batches.create(NewBatch("batch", allows_failures=True))
    assert own_store.batches.add("batch", 3) == 0
    assert own_store.batches.add("batch", 2) == 3
    assert found(own_store).total_jobs == 5
    own_store.batches.end_member(MemberEnd("batch", 0, "job-0", MemberState.FAILED))
    revived = own_store.batches.revive("batch", 0, job_id="job-0")
    assert revived is not None
    assert revived.changed
    assert found(own_store).pending_jobs == 5
    assert own_store.failed_jobs.record(failed())
    assert own_store.failed_jobs.count() == 1
    assert own_store.failed_jobs.claim("job", owner="first", lease=HOUR) == failed()
    assert own_store.failed_jobs.claim("job", owner="second", lease=HOUR) is None
    assert own_store.failed_jobs.record(failed(minutes=1))
    assert own_store.failed_jobs.find("job") == failed(minutes=1)
    assert own_store.failed_jobs.claim("job", owner="second", lease=HOUR) == failed(minutes=1)
    assert own_store.failed_jobs.release("job", owner="second")
    assert own_store.failed_jobs.forget("job", owner="second")


def test_a_member_whose_end_was_answered_in_vain_is_counted_once_and_its_callbacks_stay_due(
    own_store: RedisStore, lose_answers: Callable[[], None]
) -> None:
    make(own_store, 1)
    begin(own_store)
    lose_answers()
    change = own_store.settle(member=ending(0, MemberState.SUCCEEDED), attempt=final(), keep=HOUR)
    assert change is not None
    assert not change.changed, "the first try changed it"
    assert [callback.kind for _, callback in own_store.batches.due(older_than=timedelta())] == [
        "then",
        "then",
        "finally",
    ]
    assert begin(own_store).status is StartStatus.OVER


def test_many_threads_use_one_store(own_store: RedisStore) -> None:
    def live(number: int) -> int:
        job = f"job-{number}"
        attempt = begin(own_store, job).attempt
        own_store.attempts.end(AttemptEnd(job, 0, is_final=False, attempts=number), keep=HOUR)
        return begin(own_store, job).attempt - number + attempt

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(live, range(1, 500))) == {1}
    assert len(own_store._connections._idle) <= 16  # type: ignore[union-attr]


def test_a_batch_that_another_process_made_anew_is_not_mistaken_for_the_old_one(server: OwnServer) -> None:
    here, there = RedisStore(server.url), RedisStore(server.url)
    make(here, 2, name="old", options={"a": 1})
    fail(here, 0, exception={"type": "Old"})
    there.batches.delete("batch")
    make(there, 3, name="new", allows_failures=True)
    assert (succeed(here, 0).batch.name, found(here).options) == ("new", {})
    assert fail(here, 1, exception={"type": "New"}).batch.first_exception == {"type": "New"}
    here.close()
    there.close()


def test_the_fixed_parts_of_many_batches_are_forgotten_and_learnt_again(own_store: RedisStore) -> None:
    for number in range(600):
        make(own_store, 1, batch_id=f"batch-{number}", name=f"name-{number}")
    assert len(own_store.batches.answers._fixed) == 512
    for number in (0, 599):
        assert succeed(own_store, 0, batch_id=f"batch-{number}").batch.name == f"name-{number}"


def test_what_a_process_knows_is_not_sent_again(own_store: RedisStore, server: OwnServer) -> None:
    make(own_store, 50, options={"large": "x" * 100_000})
    with server.client() as client:
        before = client.info("stats")["total_net_output_bytes"]
        for index in range(50):
            succeed(own_store, index)
        assert client.info("stats")["total_net_output_bytes"] - before < 100_000
    with Redis.from_url(server.url) as other:
        assert other.exists("laravel:{batches}:batch:batch")
