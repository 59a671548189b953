"""Real workers on the database broker, and what the suite of another broker asks of its own."""

from __future__ import annotations

import signal
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel import install
from tests.support.worker import wait_until
from tests.transport.conftest import APP

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.worker import RunningWorker
    from tests.transport.conftest import Contents, Record, StartWorker


def send(app: Celery, task: str, *args: Any, **options: Any) -> Any:
    return app.send_task(f"{APP}.{task}", args, **options)


def notes(record: Record) -> Counter[str]:
    """What the tasks `note` were given, and how often each ran."""
    return Counter(line.split()[0] for line in record.lines() if "@" in line)


@pytest.mark.parametrize("pool", ["threads", "gevent", "eventlet"])
def test_tasks_run_in_other_pools_and_a_warm_shutdown_is_prompt(
    app: Celery, worker: StartWorker, record: Record, contents: Contents, pool: str
) -> None:
    if pool in {"gevent", "eventlet"} and find_spec(pool) is None:
        pytest.skip(f"{pool} is not installed")
    with worker(pool=pool) as running:
        for number in range(100):
            send(app, "note", number)
        wait_until(lambda: notes(record).total() == 100)
        send(app, "hand_on", 20)
        record.wait_for("link 0")
        assert running.terminate(timeout=10) == 0
    assert {line.split()[0] for line in record.lines()} == {*map(str, range(100)), "link"}
    assert contents.left() == 0


def test_the_solo_pool_takes_queues_and_priorities_in_their_order(
    app: Celery,
    worker: StartWorker,
    record: Record,
    contents: Contents,
    ordered: tuple[dict[str, list[int]], list[str]],
) -> None:
    sent, expected = ordered
    for queue, priorities in sent.items():
        for priority in priorities:
            send(app, "note", f"{queue}{priority}", queue=queue, priority=priority)
    options = {"queue_order_strategy": "priority"}
    with worker("-Q", "high,low", pool="solo", concurrency=1, prefetch=1, options=options) as running:
        wait_until(lambda: len(record.lines()) == len(expected))
        send(app, "hand_on", 0, queue="low")
        record.wait_for("link 0")
        assert running.terminate(timeout=10) == 0
    assert [line.split()[0] for line in record.lines()] == [*expected, "link"]


def test_two_workers_share_the_work_and_hear_of_each_other(
    app: Celery, worker: StartWorker, record: Record, contents: Contents
) -> None:
    for number in range(300):
        send(app, "note", number)
    with (
        worker("-E", loglevel="DEBUG", concurrency=1, prefetch=1) as first,
        worker("-E", concurrency=1, prefetch=1) as second,
    ):
        second.wait_for_log("mingle: sync complete")
        first.wait_for_log(f"{second.name} joined the party")
        check_that_nothing_is_taken_twice(app, record, contents, {first.name, second.name})
        check_control(app, record, {first.name, second.name})
        check_events(app)
        check_revoking(app, record, contents, [first, second])
        assert second.terminate(timeout=10) == 0
        first.wait_for_log(f"{second.name} left")
        app.control.shutdown([first.name])
        assert first.process.wait(20) == 0


def check_that_nothing_is_taken_twice(app: Celery, record: Record, contents: Contents, names: set[str]) -> None:
    for number in range(300, 600):
        send(app, "note", number)
    wait_until(lambda: notes(record).total() >= 600, timeout=90)
    wait_until(lambda: contents.left() == 0)
    assert notes(record) == Counter(map(str, range(600)))
    assert {line.split()[1] for line in record.lines()} == names


def check_control(app: Celery, record: Record, names: set[str]) -> None:
    def inspect() -> Any:
        return app.control.inspect(list(names), timeout=5, limit=2)

    assert set(inspect().ping()) == names
    assert {*inspect().stats()} == names
    for name in ("one", "two"):
        send(app, "block", name)
    record.wait_for("start one 0 False", "start two 0 False")
    assert {task["args"][0] for tasks in inspect().active().values() for task in tasks} == {"one", "two"}
    for _ in range(10):
        send(app, "note", "purged")
    assert app.control.purge() == 10, "one each is what a worker holds, and both are busy"
    for name in ("one", "two"):
        record.let_go(name)
    record.wait_for("end one", "end two")
    one, other = sorted(names)
    app.control.cancel_consumer("celery", destination=[one], reply=True, timeout=5)
    app.control.add_consumer("extra", destination=[one], reply=True, timeout=5)
    send(app, "note", "extra", queue="extra")
    send(app, "note", "usual")
    record.wait_for(f"extra {one}", f"usual {other}")
    app.control.add_consumer("celery", destination=[one], reply=True, timeout=5)


def check_events(app: Celery) -> None:
    seen: list[str] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: seen.append(event["type"])})
        capture = receiver.itercapture(limit=None, timeout=30, wakeup=True)
        next(capture)
        send(app, "note", "watched")
        wait_until(lambda: (next(capture), "task-succeeded" in seen)[1], interval=0)
        assert "task-received" in seen
        capture.close()


def check_revoking(app: Celery, record: Record, contents: Contents, workers: list[RunningWorker]) -> None:
    result = send(app, "note", "never", countdown=1.5)
    app.control.revoke(result.id)
    text = f"Discarding revoked task: {APP}.note[{result.id}]"
    wait_until(lambda: any(text in running.log_text() for running in workers))
    wait_until(lambda: contents.left() == 0)
    assert "never" not in notes(record)


def test_what_a_killed_worker_held_comes_back_with_a_count_and_what_a_shutdown_gives_back_has_none(
    app: Celery, worker: StartWorker, record: Record, contents: Contents
) -> None:
    for name in "abc":
        send(app, "block", name)
    with worker(options={"visibility_timeout": 2}, prefetch=2) as running:
        record.wait_for("start a 0 False", "start b 0 False")
        running.kill()
        assert contents.left() == 3
        for name in "abc":
            record.let_go(name)
        running.restart()
        record.wait_for("start a 1 True", "start b 1 True", "end a", "end b", "end c")
        wait_until(lambda: contents.left() == 0)
        assert Counter(line for line in record.lines() if line.startswith("end")) == Counter(
            ["end a", "end b", "end c"]
        )
        for name in "defg":
            send(app, "hold", name)
        record.wait_for("start d", "start e")
        wait_until(lambda: contents.waiting() == 0)
        running.send(signal.SIGTERM)
        running.wait_for_log("Warm shutdown")
        for name in "de":
            record.let_go(name)
        assert running.process.wait(20) == 0
    assert record.lines()[-2:] in (["end d", "end e"], ["end e", "end d"])
    assert contents.waiting() == 2
    with app.connection_for_read() as connection:
        headers = [connection.default_channel.basic_get("celery").headers for _ in range(2)]
    assert not any("x-delivery-count" in one for one in headers), "a shutdown is no failure"


def test_jobs_longer_than_the_visibility_timeout_are_not_redelivered_while_their_workers_live(
    app: Celery, worker: StartWorker, record: Record, contents: Contents
) -> None:
    """Nor are delayed tasks that wait in a worker. The loop of a solo pool stands still meanwhile."""
    options = {"visibility_timeout": 1}
    recycled = ("--max-tasks-per-child", "2")
    with worker(pool="solo", concurrency=1, options=options) as holder:
        send(app, "block", "in-solo")
        record.wait_for("start in-solo 0 False")
        with worker(*recycled, options=options) as other:
            send(app, "block", "in-prefork")
            record.wait_for("start in-prefork 0 False")
            began = contents.heard_of()
            for number in range(5):
                send(app, "note", f"delayed{number}", countdown=3)
            wait_until(lambda: sum(notes(record).values()) >= 5)
            wait_until(lambda: contents.heard_of() > began + 2.5)
            for name in ("in-solo", "in-prefork"):
                record.let_go(name)
            record.wait_for("end in-solo", "end in-prefork")
            send(app, "hand_on", 5)
            record.wait_for("link 0")
            wait_until(lambda: contents.left() == 0)
            assert holder.is_running
            assert other.is_running
    assert notes(record) == Counter(f"delayed{number}" for number in range(5))
    once = [f"{what} {name}" for name in ("in-solo", "in-prefork") for what in ("start", "end")]
    lines = Counter(line.removesuffix(" 0 False") for line in record.lines() if "@" not in line)
    assert lines == Counter([*once, *(f"link {left}" for left in range(6))])


def test_a_delayed_task_is_in_the_table_and_survives_a_restart(
    app: Celery, worker: StartWorker, record: Record, contents: Contents
) -> None:
    """Here alone: the tables have a column for it."""
    with worker() as running:
        send(app, "note", "later", countdown=3)
        send(app, "note", "now")
        record.wait_for(f"now {running.name}")
        assert app.control.inspect([running.name]).scheduled() == {running.name: []}
        running.kill()
        assert contents.left() == 1
        running.restart()
        record.wait_for(f"later {running.name}")


@pytest.mark.parametrize("has_library", [True, False])
def test_a_delayed_task_that_was_revoked_never_runs_whichever_workers_are_restarted(
    app: Celery, worker: StartWorker, record: Record, contents: Contents, has_library: bool
) -> None:
    """A client that has the library needs no worker for it; one that has not needs any worker."""
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare("celery")  # no worker has
    revoked = send(app, "note", "never", countdown=3600)
    if has_library:
        app.conf.laravel_store = "memory://"
        install(app)
        app.control.revoke(revoked.id)
    else:
        with worker("-Q", "elsewhere", pool="solo", transport="safe") as other:
            app.control.broadcast("revoke", arguments={"task_id": revoked.id})
            wait_until(lambda: contents.waiting() == 1)
            other.kill()
    assert (contents.waiting(), contents.left()) == (1, 1)
    with worker(pool="solo", transport="safe") as running:
        wait_until(lambda: contents.left() == 0)
        send(app, "note", "last")
        record.wait_for(f"last {running.name}")
        assert f"Discarding revoked task: {APP}.note[{revoked.id}]" in running.log_text()
    assert list(notes(record)) == ["last"]
