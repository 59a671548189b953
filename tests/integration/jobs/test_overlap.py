"""Overlap locks in real workers that are killed, blocked and cut off: never two holders, free soon after a death."""

from __future__ import annotations

import signal
import time
from itertools import groupby
from typing import Any

import pytest
from celery import chain
from celery.utils import uuid

from celery_laravel.testing.processes import free_port, wait_until
from tests.integration.jobs.conftest import Lab, MakeLab
from tests.support import locks_app

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

SIXTY_SECONDS = "tests.support.locks_app"
THREE_SECONDS = "tests.support.short_leases_app"
LEASE = 3.0


class Locks:
    """The jobs of one lock, and what they have written down."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.lock = lab, uuid()

    def send(self, how: str = "", seconds: float = 0.0, task: str = "guarded", **options: Any) -> Any:
        return self.lab.app.tasks[task].apply_async((self.lock, how, seconds), **options)

    def owners(self) -> list[str]:
        """Who held the lock, one after the other; one who comes twice has shared it with those in between."""
        return [owner for owner, _ in groupby(self.lab.written(self.lock, "beats"))]

    def wait_for_run_of(self, result: Any) -> dict[str, Any]:
        """Wait until a job's code runs; return what it wrote down then."""
        runs = wait_until(lambda: [run for run in self.lab.written(self.lock, "runs") if run["id"] == result.id])
        return dict(runs[-1])

    def held(self) -> list[Any]:
        return list(self.lab.bus.locks.find(f"overlap:{self.lock}"))

    def check_that_nobody_shared_it(self) -> None:
        owners = self.owners()
        assert len(owners) == len(set(owners)), owners


def _locks(make_lab: MakeLab, **places: Any) -> Locks:
    lab = make_lab(**places)
    locks_app.declare(lab.app)
    return Locks(lab)


@pytest.fixture
def locks(make_lab: MakeLab) -> Locks:
    return _locks(make_lab)


def test_jobs_of_one_key_run_one_after_the_other_and_none_is_lost(locks: Locks) -> None:
    with locks.lab.worker(app=SIXTY_SECONDS, concurrency=4):
        results = [locks.send("beat", 0.1) for _ in range(8)]
        assert [result.get(timeout=60) for result in results] == ["done"] * 8
    locks.check_that_nobody_shared_it()
    assert locks.held() == []


def test_the_log_says_who_turned_a_job_away_and_why(locks: Locks) -> None:
    with locks.lab.worker(app=SIXTY_SECONDS, concurrency=2) as worker:
        holder = locks.send("wait", 30)
        owner = locks.wait_for_run_of(holder)["owner"]
        waiting = locks.send()
        by = "WithoutOverlapping('lock', release_after=0.2, shared=True)"
        worker.wait_for_log(
            f"Task guarded[{waiting.id}] retry: released for 0.2 s by {by}, key overlap:{locks.lock} is held by {owner}"
        )
        locks.lab.go_on(holder.id)
        assert [result.get(timeout=30) for result in (holder, waiting)] == ["done"] * 2


def test_the_next_step_of_a_chain_finds_the_lock_free(locks: Locks) -> None:
    task = locks.lab.app.tasks["guarded"]
    with locks.lab.worker(app=SIXTY_SECONDS):
        steps = chain(*[task.si(locks.lock, "") for _ in range(5)])
        assert steps.apply_async().get(timeout=30) == "done"
    assert [run["attempt"] for run in locks.lab.written(locks.lock, "runs")] == [1] * 5


@pytest.mark.parametrize("end", ["die", "time limit", "blocked time limit", "terminate", "hard lock"])
def test_a_child_that_dies_leaves_its_lock_free_at_once(locks: Locks, end: str) -> None:
    """Its lease would last for a minute."""
    with locks.lab.worker(app=SIXTY_SECONDS, concurrency=2):
        if end == "die":
            first = locks.send("die")
        elif end == "hard lock":
            first = locks.send("die", task="guarded_hard")
        elif end == "terminate":
            first = locks.send("wait", 50)
        else:
            first = locks.send("block" if end == "blocked time limit" else "wait", 50, time_limit=1)
        locks.wait_for_run_of(first)
        if end == "terminate":
            first.revoke(terminate=True, signal="SIGKILL")
        assert locks.send().get(timeout=40) == "done"
        if "die" in end or end == "hard lock":
            first.revoke(terminate=True, signal="SIGKILL")
    locks.check_that_nobody_shared_it()


@pytest.mark.parametrize("main_process_alone", [True, False])
def test_a_worker_that_dies_as_a_whole_leaves_its_lock_free_within_a_lease(
    locks: Locks, main_process_alone: bool
) -> None:
    """Of its main process alone: Celery has Linux kill the children of one that dies."""
    with locks.lab.worker(app=THREE_SECONDS, concurrency=1) as doomed:
        locks.wait_for_run_of(locks.send("wait", 50))
        if main_process_alone:
            doomed.send(signal.SIGKILL)
            wait_until(lambda: not doomed.pids())
        else:
            doomed.kill()
        killed = time.time()
    assert all(record.expires_at.timestamp() - killed <= LEASE + 1 for record in locks.held())
    wait_until(lambda: not locks.held())
    with locks.lab.worker(app=THREE_SECONDS):
        assert locks.send().get(timeout=30) == "done"
    locks.check_that_nobody_shared_it()


@pytest.mark.parametrize(
    ("pool", "how", "stopped"),
    [
        ("prefork", "wait", None),
        ("prefork", "block", None),  # the parent renews
        ("prefork", "wait", signal.SIGSTOP),  # the child renews
        ("threads", "wait", None),
        ("solo", "wait", None),
    ],
)
def test_a_live_holder_keeps_its_lock(locks: Locks, pool: str, how: str, stopped: int | None) -> None:
    """For three leases: a child whose interpreter is blocked, too, and one whose parent is stopped."""
    queue = locks.lab.places["queue"]
    workers = [
        locks.lab.worker("-Q", f"other-{queue}", app=THREE_SECONDS, pool=pool, concurrency=1),
        locks.lab.worker("-Q", queue, app=THREE_SECONDS, concurrency=1),
    ]
    with workers[0] as holder, workers[1]:
        first = locks.send(how, 3 * LEASE, queue=f"other-{queue}")
        owner = locks.wait_for_run_of(first)["owner"]
        if stopped is not None:
            holder.send(stopped)
        second = locks.send()
        run = locks.wait_for_run_of(second)
        assert run["attempt"] > 1
        assert locks.lab.written(locks.lock, "beats")[:2] == [owner, owner], "the first had not ended"
        if stopped is not None:
            holder.send(signal.SIGCONT)
        assert second.get(timeout=30) == "done"
    locks.check_that_nobody_shared_it()


def test_without_its_store_a_job_waits_free_of_charge(make_lab: MakeLab) -> None:
    locks = _locks(make_lab, store=f"redis://127.0.0.1:{free_port()}/0")
    with locks.lab.worker(app=SIXTY_SECONDS, loglevel="DEBUG") as worker:
        result = locks.send(task="guarded_once")
        wait_until(lambda: result.state == "RETRY")
        worker.wait_for_log("by WithoutOverlapping('lock', shared=True): Cannot reach the store")
        assert locks.lab.written(locks.lock, "runs") == []
        result.revoke()


@pytest.mark.slow
@pytest.mark.rabbitmq
def test_whole_workers_killed_while_they_hold_the_lock_never_let_two_run(make_lab: MakeLab) -> None:
    locks = _locks(
        make_lab, broker="rabbitmq"
    )  # kombu's Redis transport may lose what a killed worker was about to take
    lab = locks.lab
    with lab.worker(app=THREE_SECONDS) as first, lab.worker(app=THREE_SECONDS) as second:
        results = [locks.send("beat", 0.3) for _ in range(12)]
        for number, worker in enumerate([first, second, first, second]):
            wait_until(lambda number=number: len(locks.owners()) > 2 * number)  # type: ignore[misc]
            worker.kill()
            worker.restart()
        assert [result.get(timeout=100) for result in results] == ["done"] * 12
    locks.check_that_nobody_shared_it()
    assert locks.held() == []
