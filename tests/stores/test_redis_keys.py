"""What the Redis store leaves on the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from importlib.resources import files
from pathlib import Path

import pytest

from celery_laravel.stores.records import AttemptEnd, MemberState, NewBatch
from celery_laravel.stores.redis import RedisStore
from celery_laravel.stores.redis.keys import CLUSTER_SHARDS, Keys
from celery_laravel.stores.redis.scripts import script
from celery_laravel.testing.store_suite.attempts import begin, final
from celery_laravel.testing.store_suite.batch_help import ending, fail, make, skip, succeed
from celery_laravel.testing.store_suite.failed_jobs import failed
from tests.stores.redis_servers import OwnServer, own_server

pytestmark = pytest.mark.redis

HOUR = timedelta(hours=1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OwnServer]:
    with own_server(tmp_path / "redis") as server:
        yield server


def use_everything(store: RedisStore) -> None:
    begin(store, "open")
    begin(store, "over")
    make(store, 5, allows_failures=True)
    succeed(store, 0)
    fail(store, 1, exception={"type": "ValueError"}, skips=(2,))
    store.batches.revive("batch", 1, job_id="job-1", skips=(2,))
    fail(store, 1)
    skip(store, 2)
    store.settle(member=ending(3, MemberState.SUCCEEDED), attempt=final(job="over"), keep=HOUR)
    succeed(store, 4)
    store.failed_jobs.record(failed("kept"))
    store.failed_jobs.record(failed("gone"))
    store.failed_jobs.forget("gone")


def test_every_key_stands_under_the_prefix(server: OwnServer) -> None:
    store = RedisStore(server.url, "shop")
    use_everything(store)
    store.close()
    with server.client() as client:
        kinds = {re.sub(r"(call):.*", r"\1:…", key) for key in client.scan_iter()}
    assert kinds == {
        "shop:attempt:open",
        "shop:attempt:over",
        "shop:{batches}:batch:batch",
        "shop:{batches}:members:batch",
        "shop:{batches}:failed:batch",
        "shop:{batches}:due",
        "shop:{batches}:index",
        "shop:{batches}:call:…",
        "shop:{failed}:jobs",
        "shop:{failed}:order",
        "shop:{failed}:queues",
        "shop:{failed}:sequence",
        "shop:{failed}:call:…",
    }


def test_stores_of_two_prefixes_do_not_meet(server: OwnServer) -> None:
    one, two = RedisStore(server.url, "one"), RedisStore(server.url, "two")
    use_everything(one)
    assert (two.batches.all(), two.failed_jobs.all(), two.batches.due(older_than=timedelta())) == ([], [], [])
    assert begin(two, "over").attempt == 1
    one.close()
    two.close()


def test_only_batches_and_failed_jobs_stay_until_they_are_removed(server: OwnServer) -> None:
    store = RedisStore(server.url)
    use_everything(store)
    with server.client() as client:
        ttls = {key: client.pttl(key) for key in client.scan_iter()}
        passing = {key for key, ttl in ttls.items() if ttl > 0}
        assert {key for key in ttls if ":attempt:" in key or ":call:" in key} == passing
        assert all(0 < ttls[key] <= 60_000 for key in passing if ":call:" in key)
        client.delete(*passing)
        assert store.batches.prune(finished_before=datetime.now(tz=timezone.utc) + HOUR) == 1
        assert store.failed_jobs.flush() == 1
        assert set(client.scan_iter()) == {"laravel:{failed}:sequence"}
    store.close()


def test_an_entry_lives_for_its_lease_or_its_keeping_time(server: OwnServer) -> None:
    store = RedisStore(server.url)
    minute = timedelta(minutes=1)
    with server.client() as client:

        def minutes(job: str) -> float:
            return round(float(client.pttl(f"laravel:attempt:{job}")) / 60_000, 1)

        begin(store, "kept", lease=minute, keep=HOUR)
        begin(store, "leased", lease=HOUR, keep=minute)
        assert (minutes("kept"), minutes("leased")) == (60, 60)
        client.pexpire("laravel:attempt:kept", 60_000)
        store.attempts.renew({"kept": "worker-1", "leased": "worker-1"}, lease=minute * 5)
        assert (minutes("kept"), minutes("leased")) == (60, 5)
        store.attempts.end(AttemptEnd("kept", 0, is_final=False, delay=600), keep=minute)
        store.attempts.end(final(job="leased"), keep=minute)
        assert (minutes("kept"), minutes("leased")) == (11, 1)
    store.close()


def test_a_million_members_take_a_quarter_of_a_megabyte(server: OwnServer) -> None:
    store = RedisStore(server.url)
    make(store, 1_000_000)
    for index in (0, 500_000, 999_999):
        assert succeed(store, index).changed
    with server.client() as client:
        taken = sum(client.memory_usage(key) for key in client.scan_iter("laravel:{batches}:*:batch"))
        assert 250_000 < taken < 300_000
        assert client.strlen("laravel:{batches}:members:batch") == 250_000
    store.close()


def test_the_marker_of_a_finished_job_is_small(server: OwnServer) -> None:
    store = RedisStore(server.url)
    begin(store, "j" * 36)
    store.attempts.end(final(job="j" * 36), keep=HOUR)
    with server.client() as client:
        assert client.memory_usage("laravel:attempt:" + "j" * 36) < 200
    store.close()


def test_due_marks_and_places_of_a_batch_that_was_evicted_are_cleared(server: OwnServer) -> None:
    store = RedisStore(server.url)
    make(store)
    store.batches.create(NewBatch("alive"))
    with server.client() as client:
        client.delete("laravel:{batches}:batch:batch")
        assert store.batches.due(older_than=timedelta()) == []
        assert client.zcard("laravel:{batches}:due") == 0
        assert [record.id for record in store.batches.all()] == ["alive"]
        store.batches.prune(finished_before=datetime.now(tz=timezone.utc) + HOUR)
        assert client.zcard("laravel:{batches}:index") == 1
    store.close()


@pytest.mark.parametrize("shards", [1, CLUSTER_SHARDS])
def test_all_keys_of_a_batch_share_a_hash_tag(shards: int) -> None:
    keys = Keys("shop", shards)
    tags = set()
    for number in range(200):
        batch = f"batch-{number}"
        own = [*keys.batch(batch), keys.index_of(batch), keys.due_of(batch), keys.batch_call(batch, "token")]
        (tag,) = {re.findall(r"\{(.*?)\}", key)[0] for key in own}
        tags.add(tag)
        assert keys.index_of(batch) in keys.indices
        assert keys.due_of(batch) in keys.dues
    assert len(tags) == shards
    failed_jobs = [keys.failed_jobs, keys.failed_order, keys.failed_queues, keys.failed_sequence, keys.failed_call("t")]
    assert {re.findall(r"\{(.*?)\}", key)[0] for key in failed_jobs} == {"failed"}


def test_scripts_say_how_to_call_them_and_build_no_keys() -> None:
    sources = {path.name: path.read_text() for path in (files("celery_laravel.stores.redis") / "lua").iterdir()}
    assert len(sources) > 20
    for name, source in sources.items():
        assert source.startswith("-- "), name
        keys = re.findall(r'redis\.call\(\s*"[A-Z]+", ([^,)]+)', source)
        assert all(re.fullmatch(r"KEYS\[\d\]|key", key) for key in keys), (name, keys)


def test_a_script_holds_what_it_requires_once() -> None:
    source = script("settle").source.decode()
    assert source.count("local function microseconds()") == 1
    assert source.index("local function milliseconds()") < source.index("local function end_attempt(")
    assert source.rstrip().endswith("return change")
