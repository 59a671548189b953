"""Real workers on the Redis broker."""

from __future__ import annotations

import os
import random
import signal
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from kombu.transport import redis as kombus

from tests.support.worker import wait_until
from tests.transport.test_workers import (
    notes,
    send,
    test_jobs_longer_than_the_visibility_timeout_are_not_redelivered_while_their_workers_live,
    test_tasks_run_in_other_pools_and_a_warm_shutdown_is_prompt,
    test_the_solo_pool_takes_queues_and_priorities_in_their_order,
    test_two_workers_share_the_work_and_hear_of_each_other,
    test_what_a_killed_worker_held_comes_back_with_a_count_and_what_a_shutdown_gives_back_has_none,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.transport.conftest import Contents, Record, StartWorker

__all__ = [
    "test_jobs_longer_than_the_visibility_timeout_are_not_redelivered_while_their_workers_live",
    "test_tasks_run_in_other_pools_and_a_warm_shutdown_is_prompt",
    "test_the_solo_pool_takes_queues_and_priorities_in_their_order",
    "test_two_workers_share_the_work_and_hear_of_each_other",
    "test_what_a_killed_worker_held_comes_back_with_a_count_and_what_a_shutdown_gives_back_has_none",
]

pytestmark = [pytest.mark.matrix, pytest.mark.redis]


def test_a_cold_shutdown_gives_back_what_it_interrupts(
    app: Celery, worker: StartWorker, record: Record, client: Any
) -> None:
    for name in ("first", "second", "third"):
        send(app, "block", name)
    with worker(concurrency=1) as running:
        record.wait_for("start first 0 False")
        wait_until(lambda: client.llen("celery") == 0)
        running.wait_until_active(app)
        running.send(signal.SIGQUIT)
        running.process.wait(20)
    payloads = client.lrange("celery", 0, -1)
    assert len(payloads) == 3
    assert not any("x-delivery-count" in payload for payload in payloads), "a shutdown is no failure"
    assert client.exists("unacked", "unacked_index") == 0


def test_workers_with_and_without_this_transport_share_queues(
    app: Celery, worker: StartWorker, record: Record, contents: Contents
) -> None:
    """Each is killed while it holds a task, and the other gets it: both ways, as in a migration and back."""
    options = {"visibility_timeout": 4, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    with (
        worker(options=options, transport="plain", prefetch=1) as plain,
        worker(options=options, transport="safe", prefetch=1) as safe,
    ):
        for number in range(100):
            send(app, "note", number)
        wait_until(lambda: sum(notes(record).values()) == 100)
        assert len({line.split()[1] for line in record.lines() if "@" in line}) == 2, "both took part"
        app.control.cancel_consumer("celery", destination=[safe.name], reply=True, timeout=5)
        send(app, "block", "a")
        record.wait_for("start a 0 False")
        plain.kill()
        record.let_go("a")
        app.control.add_consumer("celery", destination=[safe.name], reply=True, timeout=5)
        record.wait_for("start a 1 True", "end a", timeout=60)
        send(app, "block", "b")
        record.wait_for("start b 0 False")
        safe.kill()
        record.let_go("b")
        if hasattr(kombus.Channel, "unacked_restore_interval"):
            plain.restart()
            record.wait_for("start b 0 True", "end b", timeout=60)
        else:  # older kombu looks for what is abandoned every 100 s
            safe.restart()
            record.wait_for("start b 1 True", "end b", timeout=60)
        wait_until(lambda: contents.left() == 0)


def has_lines(record: Record, count: int) -> bool:
    return len(record.lines()) >= count


def test_a_worker_whose_connections_are_cut_connects_again_and_loses_nothing(
    app: Celery, worker: StartWorker, record: Record, client: Any, contents: Contents
) -> None:
    with worker(options={"visibility_timeout": 3}, acks_late=True) as running:
        for number in range(600):
            send(app, "note", number)
            if number % 200 == 100:
                client.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: len({line.split()[0] for line in record.lines()}) == 600, 60)
        wait_until(lambda: contents.left() == 0)
        assert running.is_running


def in_batches(producer: Any) -> Any:
    """Publish many at a time, where kombu can."""
    return producer.batch() if hasattr(producer, "batch") else nullcontext()


@pytest.fixture
def losses(app: Celery, worker: StartWorker, record: Record, contents: Contents) -> Callable[..., set[int]]:
    """Kill a whole worker so many times at full speed, so many fast tasks each time: which were lost.

    Counted from what the tasks wrote down, and from what was sent. The seed chooses the moments.
    """

    def kill(kills: int, tasks: int, seed: int) -> set[int]:
        moments = random.Random(seed)
        with worker("--without-mingle", options={"visibility_timeout": 2}, acks_late=True) as running:
            for number in range(kills):
                began = len(record.lines())
                with app.producer_pool.acquire(block=True) as producer, in_batches(producer):
                    for name in range(number * tasks, (number + 1) * tasks):
                        send(app, "note", name, producer=producer)
                wait_until(partial(has_lines, record, began + moments.randrange(tasks * 4 // 5)), 60, interval=0.01)
                running.kill()
                running.process.wait(10)
                running.restart()
                wait_until(lambda: contents.left() == 0, 90)
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
