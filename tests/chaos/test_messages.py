"""Messages that come twice, and messages and records that are broken: no worker stops, and nothing is done twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery.utils import uuid
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from celery_laravel.testing.processes import wait_until
from tests.chaos.mutations import Good, messages, values
from tests.chaos.test_batches import Watched

if TYPE_CHECKING:
    import random

    from tests.chaos.ledger import Entry
    from tests.chaos.stage import Stage

pytestmark = [
    pytest.mark.redis,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),  # all that might have stopped the worker
]

SHORT, LONG = 300, 10_000
AT_ONCE = 50
"""Broken messages between two good jobs."""


@pytest.fixture(scope="module")
def on_redis(make_stage: Any) -> Stage:
    return make_stage("redis × redis")  # type: ignore[no-any-return]


def texts(client: Any, key: str) -> list[str]:
    return [text.decode() for text in client.lrange(key, 0, -1)]


@pytest.mark.promise("messages that come twice change nothing")
@pytest.mark.short(1)
def test_copies_of_messages_change_nothing(on_redis: Stage, entry: Entry, rng: random.Random) -> None:
    """The messages of a batch and of its callbacks are queued again, before and after they have been dealt with."""
    stage = on_redis
    stage.start()
    queue, aside = stage.places["queue"], f"aside-{uuid()}"
    with redis.Redis.from_url(stage.places["broker"]) as client:
        watched = Watched(stage, [("member3", f"{n}", "return", 0.05) for n in range(6)], queue=aside)
        copies = texts(client, f"{queue}:{queue}")
        wait_until(lambda: client.llen(f"{queue}:{aside}") == 2, 60)
        callbacks = texts(client, f"{queue}:{aside}")
        client.delete(f"{queue}:{aside}")
        again = callbacks + rng.choices(callbacks + copies, k=8)
        rng.shuffle(again)
        for text in again:
            client.lpush(f"{queue}:{queue}", as_copy(text, queue))
        entry.fault("messages repeated", len(again) - 2)
        wait_until(lambda: {"then", "finally"} <= set(watched.called()), 60)
        late = rng.choices(callbacks + copies, k=8)
        for text in late:
            client.lpush(f"{queue}:{queue}", as_copy(text, queue))
        entry.fault("messages repeated", len(late))
    stage.wait_until_quiet()
    watched.close()
    watched.check(entry, 6)
    entry.expect_each(["then", "finally"], watched.called())
    entry.expect_each([f"{n}" for n in range(6)], [step["name"] for step in stage.written(watched.key, "done")])
    entry.judge()


def as_copy(text: str, queue: str) -> str:
    """A message once more, as a broker that does not remember the first delivery would have it."""
    message = json.loads(text)
    message["properties"]["delivery_tag"] = uuid()
    message["properties"]["delivery_info"]["routing_key"] = queue
    return json.dumps(message)


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    """How many broken messages: the short form's, or each run's share of the long form's."""
    runs = request.config.getoption("--runs", default=None)
    return -(-LONG // runs) if runs else SHORT


@pytest.mark.promise("a bad message, header or signature never stops a worker")
@pytest.mark.short(1)
def test_broken_messages_stop_no_worker(on_redis: Stage, entry: Entry, rng: random.Random, count: int) -> None:
    stage = on_redis
    stage.start()
    pid = stage.workers[0].pid
    good = good_messages(stage)
    queue = stage.places["queue"]

    @seed(rng.randrange(2**32))
    @settings(
        max_examples=max(1, count // AT_ONCE),
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(messages(good), min_size=AT_ONCE, max_size=AT_ONCE))
    def send_and_look(broken: list[str]) -> None:
        with redis.Redis.from_url(stage.places["broker"]) as client:
            for text in broken:
                client.lpush(f"{queue}:{queue}", text)
        entry.fault("broken messages", len(broken))
        expect_good_job(stage, pid, broken)

    send_and_look()
    entry.expect(stage.workers[0].pid == pid and stage.workers[0].is_running, "the worker has ended")
    entry.judge()


def expect_good_job(stage: Stage, pid: int, broken: list[str]) -> None:
    """A good job that was sent after broken messages is done, by the same worker."""
    key = str(uuid())
    stage.sig("member3", key, "good").apply_async()
    wait_until(lambda: stage.written(key, "done"), 60, message=f"a good job to run after {len(broken)} broken things")
    worker = stage.workers[0]
    assert (worker.is_running, worker.pid) == (True, pid), "the worker ended"


def good_messages(stage: Stage) -> Good:
    """Messages of every kind, as they are sent: jobs, members, steps, unique and delayed ones, callbacks."""
    from celery import chord, group

    elsewhere, key = f"good-{uuid()}", str(uuid())
    app = stage.app
    callback = app.tasks["callback"].s("catch", key).set(queue=elsewhere)
    member = stage.sig("member3", key, "x").set(queue=elsewhere)
    plain = stage.sig("member", key, "x").set(queue=elsewhere)
    for signature in (member, plain, stage.sig("limited", key, "x").set(queue=elsewhere)):
        signature.apply_async()
    app.tasks["once"].apply_async((key, "x"), queue=elsewhere)
    stage.sig("overlap", key, "x").apply_async(queue=elsewhere)
    batch = (
        stage.bus.batch([member, [plain, member], chord(group(plain, member), plain)]).then(callback).catch(callback)
    )
    batch.on_queue(elsewhere).dispatch()
    stage.bus.batch([]).then(callback).dispatch()
    stage.bus.chain([member, plain]).catch(callback).dispatch()
    with redis.Redis.from_url(stage.places["broker"]) as client:
        found = [json.loads(text) for text in client.lrange(f"{stage.places['queue']}:{elsewhere}", 0, -1)]
        client.delete(f"{stage.places['queue']}:{elsewhere}")
    for message in found:
        message["properties"]["delivery_info"]["routing_key"] = stage.places["queue"]
    assert len(found) >= 9, "every kind was sent"
    return Good(found)


@pytest.mark.promise("a bad record of the store never stops a worker")
@pytest.mark.short(1)
def test_broken_records_stop_no_worker(on_redis: Stage, entry: Entry, rng: random.Random, count: int) -> None:
    """Fields of the store's hashes are overwritten, or their keys become something else, while jobs are worked."""
    stage = on_redis
    stage.start()
    pid, prefix = stage.workers[0].pid, stage.places["queue"]

    @seed(rng.randrange(2**32))
    @settings(
        max_examples=max(1, count // AT_ONCE // 2),
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.tuples(st.integers(0, 10**6), values), min_size=AT_ONCE, max_size=AT_ONCE))
    def break_and_look(changes: list[tuple[int, Any]]) -> None:
        watched = Watched(stage, [("member3", "a"), ("member3", "b", "raise")], is_watched=False)
        with redis.Redis.from_url(stage.places["store"]) as client:
            for number, value in changes:
                entry.fault("broken records", break_record(client, prefix, number, value))
        expect_good_job(stage, pid, [repr(change) for change in changes])
        with redis.Redis.from_url(stage.places["store"]) as client:
            for record in ours(client, prefix):
                client.delete(record)
        watched.close()

    break_and_look()
    expect_good_job(stage, pid, [])
    entry.judge()


def ours(client: Any, prefix: str) -> list[bytes]:
    """The store's keys; the broker's begin with the same prefix, and go on otherwise."""
    return [key for pattern in ("attempt:*", "{*") for key in client.scan_iter(match=f"{prefix}:{pattern}")]


def break_record(client: Any, prefix: str, number: int, value: Any) -> int:
    """Overwrite one field of one of the store's keys, or the whole key; return how many were changed."""
    keys = sorted(ours(client, prefix))
    if not keys:
        return 0
    key = keys[number % len(keys)]
    text = value if isinstance(value, str) else json.dumps(value)
    if client.type(key) == b"hash" and number % 5:
        fields = sorted(client.hkeys(key))
        client.hset(key, fields[number % len(fields)], text)
    else:
        client.set(key, text)
    return 1
