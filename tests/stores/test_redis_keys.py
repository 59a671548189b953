"""What the Redis store leaves on the server."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from importlib.resources import files
from typing import Any

import pytest

from celery_laravel.stores.records import AttemptEnd, MemberState, NewBatch
from celery_laravel.stores.redis import RedisStore
from celery_laravel.stores.redis.keys import CLUSTER_SHARDS, Keys
from celery_laravel.stores.redis.scripts import script
from celery_laravel.testing.processes import wait_until
from celery_laravel.testing.store_suite.attempt_locks import begin_with
from celery_laravel.testing.store_suite.attempts import begin, final
from celery_laravel.testing.store_suite.batch_help import ending, fail, make, skip, succeed
from celery_laravel.testing.store_suite.debounces import dispatch, numbers
from celery_laravel.testing.store_suite.failed_jobs import failed
from celery_laravel.testing.store_suite.limits import take
from celery_laravel.testing.store_suite.locks import acquire, lease
from tests.stores.redis_servers import OwnServer

pytestmark = pytest.mark.redis

HOUR = timedelta(hours=1)


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
    acquire(store, "a", "held", slots=2)
    lease(store, "b", "leased")
    acquire(store, "c", "freed")
    store.locks.release(["freed"], owner="c")
    for number in range(3):
        take(store, 1, caller=f"caller-{number}")
    store.debounces.start("key", dispatch(store))


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
        "shop:{locks}:lock:held",
        "shop:{locks}:lock:leased",
        "shop:{locks}:owner:a",
        "shop:{locks}:owner:b",
        "shop:{locks}:taken",
        "shop:{locks}:ends",
        "shop:{locks}:call:…",
        "shop:{limits-7:limiter}:counts:key",
        "shop:{limits-7:limiter}:full:key",
        "shop:{limits-7:limiter}:kept:key",
        "shop:{limits-7:limiter}:call:…",
        "shop:debounce:key",
    }


def test_stores_of_two_prefixes_do_not_meet(server: OwnServer) -> None:
    one, two = RedisStore(server.url, "one"), RedisStore(server.url, "two")
    use_everything(one)
    assert (two.batches.all(), two.failed_jobs.all(), two.batches.due(older_than=timedelta())) == ([], [], [])
    assert begin(two, "over").attempt == 1
    assert two.locks.all() == []
    assert take(two, 1).granted
    assert numbers(dispatch(two)) == (1, 1)
    one.close()
    two.close()


def test_only_batches_failed_jobs_and_locks_without_an_end_stay_until_they_are_removed(server: OwnServer) -> None:
    store = RedisStore(server.url)
    use_everything(store)
    with server.client() as client:
        ttls = {key: client.pttl(key) for key in client.scan_iter()}
        passing = {key for key, ttl in ttls.items() if ttl > 0}
        assert {key for key in ttls if ":attempt:" in key or ":call:" in key} <= passing
        assert not {key for key in passing if "{batches}" in key or "{failed}" in key if ":call:" not in key}
        assert all(0 < ttls[key] <= 60_000 for key in passing if ":call:" in key)
        assert {key for key in ttls if "{limits-" in key or ":debounce:" in key} <= passing
        assert {key for key in ttls if "{locks}" in key} - passing == {
            "laravel:{locks}:lock:held",
            "laravel:{locks}:owner:a",
            "laravel:{locks}:taken",
            "laravel:{locks}:ends",
        }
        client.delete(*passing)
        assert store.locks.free("held") == 1
        assert store.locks.renew(["b"], ttl=HOUR) == 0
        assert client.zrange("laravel:{locks}:taken", 0, -1) == ["6:leasedb"], "until its time is over"
        client.delete("laravel:{locks}:taken", "laravel:{locks}:ends", *client.scan_iter("*:call:*"))
        assert store.batches.prune(finished_before=datetime.now(tz=timezone.utc) + HOUR) == 1
        assert store.failed_jobs.flush() == 1
        assert set(client.scan_iter()) == {"laravel:{failed}:sequence"}
    store.close()


def test_a_lock_and_its_owner_live_as_long_as_the_last_hold(server: OwnServer) -> None:
    store = RedisStore(server.url)
    with server.client() as client:

        def minutes(key: str) -> float:
            left = float(client.pttl(f"laravel:{{locks}}:{key}"))
            return round(left / 60_000, 1) if left > 0 else left

        lease(store, "a", "one", ttl=HOUR)
        assert (minutes("lock:one"), minutes("owner:a")) == (60, 60)
        acquire(store, "b", "one", slots=2)
        assert (minutes("lock:one"), minutes("owner:b")) == (-1, -1)
        acquire(store, "a", "two", ttl=HOUR * 2)
        assert minutes("owner:a") == 120
        store.locks.renew(["a"], ttl=HOUR * 3)
        assert minutes("owner:a") == 180
        store.locks.release(["one"], owner="b")
        assert (minutes("lock:one"), minutes("owner:b")) == (180, -2)
        store.locks.confirm("two", owner="a", ttl=HOUR * 4)
        assert (minutes("lock:two"), minutes("owner:a")) == (240, 240)
        store.locks.release(["two"], owner="a")
        assert (minutes("lock:two"), minutes("owner:a")) == (-2, 180)
        store.locks.release_all("a")
        assert not [key for key in client.scan_iter() if ":call:" not in key]
    store.close()


def test_what_is_left_of_expired_locks_is_swept_up(server: OwnServer) -> None:
    store = RedisStore(server.url)
    with server.client() as client:
        for number in range(50):
            acquire(store, "a", f"lock-{number}", ttl=timedelta())
        assert client.zcard("laravel:{locks}:taken") < 3, "each that is taken clears away some that have ended"
        assert store.locks.prune() == 0
        assert not client.exists("laravel:{locks}:taken", "laravel:{locks}:ends")
        wait_until(lambda: not list(client.scan_iter()), 5)  # a key outlives the last hold in it by up to 2 ms
    store.close()


def test_windows_that_have_passed_leave_nothing(server: OwnServer) -> None:
    store = RedisStore(server.url)
    with server.client() as client:
        first = take(store, 1, seconds=0.01)
        answers = [take(store, 1, seconds=0.01, caller=f"caller-{number}") for number in range(200)]
        limit = "laravel:{limits-7:limiter}"
        assert client.hlen(f"{limit}:counts:key") <= 2 * 201 + 1, "two fields for each window, and one for the grid"
        assert client.zcard(f"{limit}:full:key") == 1
        ends = answers[-1].slots[0].window_start + 0.01
        for part in ("counts", "full", "kept"):
            assert abs(client.time()[0] + client.pttl(f"{limit}:{part}:key") / 1000 - ends) < 2
        wait_until(lambda: not [key for key in client.scan_iter() if ":call:" not in key], 30)
        assert first.granted
    store.close()


def test_callers_that_wait_take_little_room(server: OwnServer) -> None:
    store = RedisStore(server.url)
    for number in range(3000):
        take(store, 2, caller=f"{number:036}")
    with server.client() as client:
        limit = "laravel:{limits-7:limiter}"
        assert client.zcard(f"{limit}:full:key") == 1, "windows that touch are one run"
        taken = sum(client.memory_usage(f"{limit}:{part}:key", samples=0) for part in ("counts", "full", "kept"))
        assert taken < 3000 * 250
    store.close()


def test_a_call_that_is_repeated_since_its_answer_was_lost_is_answered_the_same(server: OwnServer) -> None:
    store, called = RedisStore(server.url), set()
    call_once = store._connections.call
    tell_what_may_differ = {"acquire", "take", "look", "reserve_place"}  # the time that is left, a place for nobody
    are_not_listened_to = {"give_back", "cancel_kept", "confirm_place"}

    def call_twice(script: Any, *arguments: Any) -> Any:
        first, second = call_once(script, *arguments), call_once(script, *arguments)
        called.add(script.name)
        assert first == second or script.name in tell_what_may_differ | are_not_listened_to
        return second

    store._connections.call = call_twice  # type: ignore[method-assign,assignment]
    assert not acquire(store, "a", ttl=HOUR).was_held
    assert acquire(store, "a", ttl=HOUR).was_held
    acquire(store, "b", payload="text")
    assert store.locks.release(["lock"], owner="a") == {"lock": "text"}
    for owner in "ab":
        acquire(store, owner, slots=2)
    assert store.locks.free("lock") == 2
    assert begin_with(store).attempt == 1
    granted = take(store, 2)
    assert take(store, 3, caller="a").granted
    kept = take(store, 2, caller="b")
    assert take(store, 2, caller="c").slots == kept.slots
    assert store.limits.look("limiter", "key").count == 2
    store.limits.give_back("limiter", granted.slots)
    assert store.limits.look("limiter", "key").count == 1
    assert [store.limits.hit("limiter", "key", seconds=HOUR.total_seconds()) for _ in range(2)] == [2, 3]
    store.limits.cancel("limiter", ["key"], caller="b")
    assert store.limits.clear("limiter", "key")
    first, second = dispatch(store), dispatch(store)
    assert store.debounces.start("key", first) == f"job-1-{second.number}"
    assert store.debounces.start("key", second) is None
    assert {"acquire", "release", "free_lock", "take", "give_back", "hit", "clear_limit", "start_place"} <= called
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
def test_all_keys_that_one_step_needs_share_a_hash_tag(shards: int) -> None:
    keys = Keys("shop", shards)
    tags = set()
    for number in range(200):
        batch = f"batch-{number}"
        own = [*keys.batch(batch), keys.index_of(batch), keys.due_of(batch), keys.batch_call(batch)]
        (tag,) = {re.findall(r"\{(.*?)\}", key)[0] for key in own}
        tags.add(tag)
        assert keys.index_of(batch) in keys.indices
        assert keys.due_of(batch) in keys.dues
    assert len(tags) == shards
    for name in ("plain", "odd } { name", ""):
        for keys_of_one in ([*keys.limit(name, "a"), *keys.limit(name, "b}"), keys.limit_call(name)],):
            assert len({re.findall(r"\{(.*?)\}", key)[0] for key in keys_of_one}) == 1
    locks = [keys.lock("a}"), keys.lock_owner("{b}"), keys.lock_call(), keys.locks_taken, keys.locks_ends]
    assert {re.findall(r"\{(.*?)\}", key)[0] for key in locks} == {"locks"}
    failed_jobs = [keys.failed_jobs, keys.failed_order, keys.failed_queues, keys.failed_claims, keys.failed_claimed]
    failed_jobs += [keys.failed_sequence, keys.failed_call()]
    assert {re.findall(r"\{(.*?)\}", key)[0] for key in failed_jobs} == {"failed"}


def test_scripts_say_how_to_call_them_and_build_no_keys() -> None:
    sources = {path.name: path.read_text() for path in (files("celery_laravel.stores.redis") / "lua").iterdir()}
    assert len(sources) > 20
    for name, source in sources.items():
        assert source.startswith("-- "), name
        keys = re.findall(r'redis\.call\(\s*"[A-Z]+", ([^,)]+)', source)
        assert all(re.fullmatch(r"KEYS\[\d\]|key|grid\.(counts|full|kept)", key) for key in keys), (name, keys)
    assert "counts = KEYS[first], full = KEYS[first + 1], kept = KEYS[first + 2]" in sources["limit.lua"]


def test_a_script_holds_what_it_requires_once() -> None:
    source = script("settle").source.decode()
    assert source.count("local function microseconds()") == 1
    assert source.index("local function milliseconds()") < source.index("local function end_attempt(")
    assert source.rstrip().endswith("return change")


def test_a_claim_is_gone_with_its_record_also_when_an_older_version_removes_that(server: OwnServer) -> None:
    """It knows of no claims: what it leaves of one says nothing about the next record of that job."""
    store = RedisStore(server.url)
    store.failed_jobs.record(failed(batch_id="batch"))
    with server.client() as client:
        names = ("laravel:{failed}:claims", "laravel:{failed}:claimed")
        assert store.failed_jobs.claim("job", owner="first", lease=HOUR) is not None
        left = client.hgetall(names[0]), client.zrange(names[1], 0, -1)
        store.failed_jobs.forget("job")
        assert not any(client.exists(name) for name in names)
        client.hset(names[0], mapping=left[0])
        client.zadd(names[1], dict.fromkeys(left[1], 0))
        assert store.failed_jobs.record(failed(batch_id="batch", minutes=1))
        assert not store.failed_jobs.record(failed(batch_id="batch", minutes=2)), "nobody has claimed it"
        found = store.failed_jobs.find("job")
        assert found is not None
        assert found.claimed_until is None
        assert store.failed_jobs.interrupted("batch") == []
        assert store.failed_jobs.claim("job", owner="second", lease=HOUR) == failed(batch_id="batch", minutes=1)
        assert store.failed_jobs.flush() == 1
        assert not any(client.exists(name) for name in names)
    store.close()
