"""Real workers on the database broker."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.worker import wait_until
from tests.transport.conftest import APP, hidden_until, rows_of

if TYPE_CHECKING:
    from celery import Celery

    from tests.transport.conftest import Record, StartWorker


def send(app: Celery, task: str, *args: Any, **options: Any) -> Any:
    return app.send_task(f"{APP}.{task}", args, **options)


def waiting(app: Celery, queue: str = "celery") -> int:
    with app.connection_for_read() as connection:
        return int(connection.default_channel.queue_declare(queue, passive=True).message_count)


def rows(app: Celery) -> int:
    """How many messages the broker still has for workers, held and delayed ones included."""
    with app.connection_for_read() as connection:
        return rows_of(connection.default_channel)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_tasks_run_in_every_pool_and_a_warm_shutdown_is_prompt(
    app: Celery, worker: StartWorker, record: Record, pool: str
) -> None:
    if pool == "gevent" and find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    with worker(pool=pool) as running:
        for number in range(100):
            send(app, "note", number)
        wait_until(lambda: len(record.lines()) == 100)
        send(app, "hand_on", 20)
        record.wait_for("link 0")
        assert running.terminate(timeout=10) == 0
    assert {line.split()[0] for line in record.lines()} == {*map(str, range(100)), "link"}
    assert rows(app) == 0


def test_several_workers_take_no_message_twice(app: Celery, worker: StartWorker, record: Record) -> None:
    for number in range(800):
        send(app, "note", number)
    with ExitStack() as stack:
        workers = [stack.enter_context(worker("--without-mingle")) for _ in range(2)]
        for number in range(800, 1600):
            send(app, "note", number)
        wait_until(lambda: len(record.lines()) >= 1600, timeout=90)
        wait_until(lambda: rows(app) == 0)
    runs = Counter(int(line.split()[0]) for line in record.lines())
    assert runs == Counter(range(1600))
    assert {line.split()[1] for line in record.lines()} == {running.name for running in workers}


def test_what_a_killed_worker_held_comes_back_after_the_visibility_timeout_with_a_count(
    app: Celery, worker: StartWorker, record: Record
) -> None:
    options = {"visibility_timeout": 2}
    for name in "abc":
        send(app, "block", name)
    with worker(options=options, prefetch=2) as running:
        record.wait_for("start a 0 False", "start b 0 False")
        running.kill()
    assert rows(app) == 3
    for name in "abc":
        record.let_go(name)
    with worker(options=options):
        record.wait_for("start a 1 True", "start b 1 True", "start c 1 True", "end a", "end b", "end c")
    assert Counter(line for line in record.lines() if line.startswith("end")) == Counter(["end a", "end b", "end c"])
    assert rows(app) == 0


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_job_longer_than_the_visibility_timeout_is_not_redelivered_while_its_worker_lives(
    app: Celery, worker: StartWorker, record: Record, pool: str
) -> None:
    options = {"visibility_timeout": 1}
    with worker(pool=pool, options=options) as holder:
        send(app, "block", "long")
        record.wait_for("start long 0 False")
        with worker(options=options):
            with app.connection_for_read() as connection:
                channel = connection.default_channel
                first = hidden_until(channel)
                wait_until(lambda: hidden_until(channel) > first + 2.5)
            record.let_go("long")
            record.wait_for("end long")
            wait_until(lambda: rows(app) == 0)
        assert holder.is_running
    assert record.lines() == ["start long 0 False", "end long"]


def test_a_warm_shutdown_puts_back_what_was_only_prefetched(app: Celery, worker: StartWorker, record: Record) -> None:
    for name in ("first", "second", "third"):
        send(app, "hold", name)
    with worker(concurrency=1) as running:
        record.wait_for("start first")
        wait_until(lambda: waiting(app) == 0)
        running.send(15)
        running.wait_for_log("Warm shutdown")
        record.let_go("first")
        assert running.process.wait(20) == 0
    assert record.lines() == ["start first", "end first"]
    assert waiting(app) == 2


def test_a_delayed_task_is_in_the_table_and_survives_a_restart(
    app: Celery, worker: StartWorker, record: Record
) -> None:
    with worker() as running:
        send(app, "note", "later", countdown=3)
        send(app, "note", "now")
        record.wait_for(f"now {running.name}")
        assert app.control.inspect([running.name]).scheduled() == {running.name: []}
        running.kill()
    assert rows(app) == 1
    with worker() as running:
        record.wait_for(f"later {running.name}")


def test_a_delayed_task_can_be_revoked_while_a_worker_that_knows_lives(
    app: Celery, worker: StartWorker, record: Record
) -> None:
    with worker() as running:
        result = send(app, "note", "never", countdown=1.5)
        app.control.revoke(result.id)
        wait_until(lambda: app.control.inspect([running.name]).revoked() == {running.name: [result.id]})
        running.wait_for_log(f"Discarding revoked task: {APP}.note[{result.id}]")
        wait_until(lambda: rows(app) == 0)
    assert record.lines() == []


def test_workers_can_be_inspected_pinged_and_purged(app: Celery, worker: StartWorker, record: Record) -> None:
    with worker(concurrency=1, prefetch=1) as first, worker(concurrency=1, prefetch=1) as second:
        names = {first.name, second.name}
        assert set(app.control.inspect(list(names), timeout=5, limit=2).ping()) == names
        assert {*app.control.inspect(list(names), timeout=5, limit=2).stats()} == names
        for name in ("one", "two"):
            send(app, "block", name)
        record.wait_for("start one 0 False", "start two 0 False")
        active = app.control.inspect(list(names), timeout=5, limit=2).active()
        assert {task["args"][0] for tasks in active.values() for task in tasks} == {"one", "two"}
        for _ in range(10):
            send(app, "note", "purged")
        assert app.control.purge() == 10  # one each is what a worker holds, and both are busy
        for name in ("one", "two"):
            record.let_go(name)
        record.wait_for("end one", "end two")
        app.control.shutdown([first.name])
        assert first.process.wait(20) == 0
        assert second.is_running


def test_a_new_worker_learns_from_its_neighbours(app: Celery, worker: StartWorker) -> None:
    with worker(loglevel="DEBUG") as first, worker() as second:
        second.wait_for_log("mingle: sync complete")
        first.wait_for_log(f"{second.name} joined the party")
        assert second.terminate(timeout=10) == 0
        first.wait_for_log(f"{second.name} left")


def test_events_reach_a_receiver(app: Celery, worker: StartWorker, record: Record) -> None:
    seen: list[str] = []
    with app.connection_for_read() as connection, worker("-E", "--without-gossip", "--without-mingle"):
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: seen.append(event["type"])})
        capture = receiver.itercapture(limit=None, timeout=30, wakeup=True)
        next(capture)
        send(app, "note", "watched")
        wait_until(lambda: (next(capture), "task-succeeded" in seen)[1], interval=0)
        assert "task-received" in seen
        capture.close()


def test_priorities_and_the_order_of_queues_are_honoured(app: Celery, worker: StartWorker, record: Record) -> None:
    for number in range(4):
        send(app, "note", f"low{number}", queue="low")
    for number, priority in enumerate([1, 5, 9]):
        send(app, "note", f"high{number}", queue="high", priority=priority)
    options = {"queue_order_strategy": "priority"}
    with worker("-Q", "high,low", pool="solo", concurrency=1, prefetch=1, options=options):
        wait_until(lambda: len(record.lines()) == 7)
    assert [line.split()[0] for line in record.lines()] == ["high2", "high1", "high0", "low0", "low1", "low2", "low3"]


def test_a_recycled_child_of_the_pool_can_publish(app: Celery, worker: StartWorker, record: Record) -> None:
    with worker("--max-tasks-per-child", "2"):
        send(app, "hand_on", 15)
        record.wait_for("link 0", timeout=60)
    assert record.lines() == [f"link {left}" for left in range(15, -1, -1)]
