"""Real workers on the Redis broker."""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_laravel import install
from tests.support.worker import RunningWorker, running_worker, wait_until
from tests.transport.conftest import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    StartWorker = Callable[..., AbstractContextManager[RunningWorker]]

pytestmark = [pytest.mark.matrix, pytest.mark.redis]

APP = "tests.transport.redis_broker.worker_app"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")


@pytest.fixture
def app(broker_url: str) -> Iterator[Celery]:
    app = install(Celery("client", broker=broker_url, set_as_current=False))
    yield app
    app.close()


@pytest.fixture
def worker(broker_url: str, record: Record) -> StartWorker:
    def start(
        *args: str,
        options: dict[str, Any] | None = None,
        prefetch: int = 4,
        transport: str = "safe",
        acks_late: bool = False,
        **kwargs: Any,
    ) -> Any:
        env = {
            "BROKER_URL": broker_url,
            "RECORD": str(record.path),
            "BROKER_OPTIONS": json.dumps(options or {}),
            "PREFETCH": str(prefetch),
            "TRANSPORT": transport,
            "ACKS_LATE": str(int(acks_late)),
        }
        return running_worker(APP, args=args, env=env, **kwargs)

    return start


def send(app: Celery, task: str, *args: Any, **options: Any) -> Any:
    return app.send_task(f"{APP}.{task}", args, **options)


def has_lines(record: Record, count: int) -> bool:
    return len(record.lines()) >= count


def left(client: Any) -> int:
    """Messages waiting or held."""
    return int(client.llen("celery") + client.hlen("unacked"))


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_tasks_run_in_every_pool_and_a_warm_shutdown_is_prompt(
    app: Celery, worker: StartWorker, record: Record, client: Any, pool: str
) -> None:
    if pool == "gevent" and find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    with worker(pool=pool) as running:
        for number in range(100):
            send(app, "note", number)
        wait_until(lambda: len(record.lines()) == 100)
        send(app, "hand_on", 20)
        record.wait_for("link 0")
        assert running.terminate(timeout=15) == 0
    assert {line.split()[0] for line in record.lines()} == {*map(str, range(100)), "link"}
    assert left(client) == 0


def test_several_workers_take_no_message_twice(app: Celery, worker: StartWorker, record: Record, client: Any) -> None:
    for number in range(500):
        send(app, "note", number)
    with ExitStack() as stack:
        workers = [stack.enter_context(worker("--without-mingle")) for _ in range(2)]
        for number in range(500, 1000):
            send(app, "note", number)
        wait_until(lambda: len(record.lines()) >= 1000, timeout=90)
        wait_until(lambda: left(client) == 0)
    assert Counter(int(line.split()[0]) for line in record.lines()) == Counter(range(1000))
    assert {line.split()[1] for line in record.lines()} == {running.name for running in workers}


def test_what_a_killed_worker_held_comes_back_after_the_visibility_timeout_with_a_count(
    app: Celery, worker: StartWorker, record: Record, client: Any
) -> None:
    options = {"visibility_timeout": 2}
    for name in "abc":
        send(app, "block", name)
    with worker(options=options, prefetch=2) as running:
        record.wait_for("start a 0 False", "start b 0 False")
        running.kill()
    assert left(client) == 3
    for name in "abc":
        record.let_go(name)
    with worker(options=options):
        record.wait_for("start a 1 True", "start b 1 True", "end a", "end b", "end c")
        wait_until(lambda: left(client) == 0)
    assert Counter(line for line in record.lines() if line.startswith("end")) == Counter(["end a", "end b", "end c"])


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_job_longer_than_the_visibility_timeout_is_not_redelivered_while_its_worker_lives(
    app: Celery, worker: StartWorker, record: Record, client: Any, pool: str
) -> None:
    """With kombu's transport the second worker runs it beside the first."""
    options = {"visibility_timeout": 1}
    with worker(pool=pool, options=options) as holder:
        send(app, "block", "long")
        record.wait_for("start long 0 False")
        began = client.zrange("unacked_index", 0, 0, withscores=True)[0][1]
        with worker(options=options):
            wait_until(lambda: client.zrange("unacked_index", 0, 0, withscores=True)[0][1] > began + 3)
            record.let_go("long")
            record.wait_for("end long")
            wait_until(lambda: left(client) == 0)
        assert holder.is_running
    assert record.lines() == ["start long 0 False", "end long"]


def test_delayed_tasks_longer_than_the_visibility_timeout_run_once(
    app: Celery, worker: StartWorker, record: Record, client: Any
) -> None:
    """They wait in the worker that took them; with kombu's transport others take them again and again."""
    options = {"visibility_timeout": 1}
    with worker(options=options), worker(options=options):
        for number in range(10):
            send(app, "note", number, countdown=4)
        wait_until(lambda: len(record.lines()) >= 10)
        wait_until(lambda: left(client) == 0)
    assert sorted(int(line.split()[0]) for line in record.lines()) == [*range(10)]


@pytest.mark.parametrize("cold", [False, True])
def test_a_shutdown_gives_back_what_was_prefetched(
    app: Celery, worker: StartWorker, record: Record, client: Any, cold: bool
) -> None:
    for name in ("first", "second", "third"):
        send(app, "block" if cold else "hold", name)
    with worker(concurrency=1) as running:
        record.wait_for("start first 0 False" if cold else "start first")
        wait_until(lambda: client.llen("celery") == 0)
        if cold:
            running.send(signal.SIGQUIT)
        else:
            running.send(signal.SIGTERM)
            running.wait_for_log("Warm shutdown")
            record.let_go("first")
        running.process.wait(20)
    payloads = [json.loads(payload) for payload in client.lrange("celery", 0, -1)]
    assert len(payloads) == (3 if cold else 2)
    assert all("x-delivery-count" not in payload["headers"] for payload in payloads), "a shutdown is no failure"
    assert client.exists("unacked", "unacked_index") == 0


@pytest.mark.parametrize("first", ["safe", "plain"])
def test_workers_with_and_without_this_transport_share_queues(
    app: Celery, worker: StartWorker, record: Record, client: Any, first: str
) -> None:
    """One is killed while it holds tasks, and the other gets them: both ways, as in a migration and back."""
    options = {"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    for name in "ab":
        send(app, "block", name)
    with worker(options=options, transport=first) as running:
        record.wait_for("start a 0 False", "start b 0 False")
        running.kill()
    for name in "ab":
        record.let_go(name)
    second = "plain" if first == "safe" else "safe"
    with worker(options=options, transport=second), worker(options=options, transport=first):
        record.wait_for("end a", "end b", timeout=60)
        for number in range(100):
            send(app, "note", number)
        wait_until(lambda: left(client) == 0)
        wait_until(lambda: len([line for line in record.lines() if "@" in line]) == 100)
    workers = {line.split()[1] for line in record.lines() if "@" in line}
    assert len(workers) == 2, "both took part"


def test_a_delayed_task_can_be_revoked(app: Celery, worker: StartWorker, record: Record, client: Any) -> None:
    with worker() as running:
        result = send(app, "note", "never", countdown=1.5)
        app.control.revoke(result.id)
        running.wait_for_log(f"Discarding revoked task: {APP}.note[{result.id}]")
        wait_until(lambda: left(client) == 0)
    assert record.lines() == []


def test_workers_can_be_inspected_pinged_and_purged(
    app: Celery, worker: StartWorker, record: Record, client: Any
) -> None:
    with worker(concurrency=1, prefetch=1) as first, worker(concurrency=1, prefetch=1) as second:
        names = {first.name, second.name}
        assert set(app.control.inspect(list(names), timeout=5, limit=2).ping()) == names
        for name in ("one", "two"):
            send(app, "block", name)
        record.wait_for("start one 0 False", "start two 0 False")
        active = app.control.inspect(list(names), timeout=5, limit=2).active()
        assert {task["args"][0] for tasks in active.values() for task in tasks} == {"one", "two"}
        for _ in range(10):
            send(app, "note", "purged")
        assert app.control.purge() == 10
        for name in ("one", "two"):
            record.let_go(name)
        record.wait_for("end one", "end two")
        app.control.cancel_consumer("celery", destination=[first.name], reply=True, timeout=5)
        app.control.add_consumer("extra", destination=[first.name], reply=True, timeout=5)
        send(app, "note", "extra", queue="extra")
        record.wait_for(f"extra {first.name}")
        send(app, "note", "usual")
        record.wait_for(f"usual {second.name}")
        app.control.shutdown([first.name])
        assert first.process.wait(20) == 0


def test_a_new_worker_learns_from_its_neighbours(worker: StartWorker) -> None:
    with worker(loglevel="DEBUG") as first, worker() as second:
        second.wait_for_log("mingle: sync complete")
        first.wait_for_log(f"{second.name} joined the party")


def test_the_order_of_queues_and_priorities_is_honoured(app: Celery, worker: StartWorker, record: Record) -> None:
    for number in range(3):
        send(app, "note", f"low{number}", queue="low")
    for priority in (6, 3, 0):
        send(app, "note", f"high{priority}", queue="high", priority=priority)
    options = {"queue_order_strategy": "priority"}
    with worker("-Q", "high,low", pool="solo", concurrency=1, prefetch=1, options=options):
        wait_until(lambda: len(record.lines()) == 6)
    # A priority's lists of all queues come before those of the next, as kombu has it.
    assert [line.split()[0] for line in record.lines()] == ["high0", "low0", "low1", "low2", "high3", "high6"]


def test_a_worker_whose_connections_are_cut_connects_again_and_loses_nothing(
    app: Celery, worker: StartWorker, record: Record, client: Any
) -> None:
    with worker(options={"visibility_timeout": 3}, acks_late=True) as running:
        for number in range(600):
            send(app, "note", number)
            if number % 200 == 100:
                client.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: len({line.split()[0] for line in record.lines()}) == 600, 60)
        wait_until(lambda: left(client) == 0)
        assert running.is_running


@pytest.fixture
def losses(app: Celery, worker: StartWorker, record: Record, client: Any) -> Callable[..., set[int]]:
    """Kill a whole worker so many times at full speed, so many fast tasks each time: which were lost.

    Counted from what the tasks wrote down, and from what was sent. The seed chooses the moments.
    """

    def kill(kills: int, tasks: int, seed: int) -> set[int]:
        moments = random.Random(seed)
        with worker("--without-mingle", options={"visibility_timeout": 2}, acks_late=True) as running:
            for number in range(kills):
                began = len(record.lines())
                with app.producer_pool.acquire(block=True) as producer, producer.batch():
                    for name in range(number * tasks, (number + 1) * tasks):
                        send(app, "note", name, producer=producer)
                wait_until(partial(has_lines, record, began + moments.randrange(tasks * 4 // 5)), 60, interval=0.01)
                running.kill()
                running.process.wait(10)
                running.restart()
                wait_until(lambda: left(client) == 0, 90)
            running.terminate()
        return set(range(kills * tasks)) - {int(line.split()[0]) for line in record.lines()}

    return kill


def test_no_message_is_lost_when_workers_are_killed_at_full_speed(losses: Callable[..., set[int]]) -> None:
    assert losses(3, 1000, seed=1) == set()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_message_is_lost_in_two_hundred_kills(losses: Callable[..., set[int]]) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(10**6))
    print(f"seed {seed}")  # noqa: T201 - for pytest's report
    assert losses(200, 1000, seed) == set()
