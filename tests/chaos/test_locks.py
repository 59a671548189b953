"""Overlap locks, unique locks and limits, whose holders are killed."""

from __future__ import annotations

import signal
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid

from celery_laravel.testing.processes import wait_until
from tests.chaos.app import PER_WINDOW, WINDOW
from tests.chaos.stage import LEASE

if TYPE_CHECKING:
    import random

    from tests.chaos.ledger import Entry
    from tests.chaos.stage import Stage
    from tests.chaos.sweep import Sweep

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]


def overlaps(edges: list[list[Any]]) -> list[str]:
    """The jobs that began while another one ran: by the order in which edges were written, kills among them."""
    running: dict[str, int] = {}
    found = []
    for what, job, pid in edges:
        if what == "killed":
            running = {}
        elif what == "begin":
            others = [other for other, its_pid in running.items() if its_pid != pid]  # of its own: was killed
            found += [f"{job} beside {other}" for other in others]
            running = {other: its_pid for other, its_pid in running.items() if its_pid != pid} | {job: pid}
        else:
            running.pop(job, None)
    return found


def kill(stage: Stage, key: str, entry: Entry) -> None:
    """Kill all workers, and write among the edges that whoever ran does so no more."""
    stage.kill()
    entry.fault("worker killed", len(stage.workers))
    stage.record.add(key, "edges", ["killed", "", 0])
    stage.start()


@pytest.mark.promise("at most one running per overlap key, whatever dies")
@pytest.mark.short(1)
def test_jobs_of_a_key_never_overlap(stage: Stage, entry: Entry, rng: random.Random) -> None:
    stage.start()
    key = str(uuid())
    names = [f"{number}" for number in range(12)]
    for name in names:
        stage.sig("overlap", key, name, 0.1).apply_async()
    wait_until(lambda: stage.written(key, "edges"), 30)
    time.sleep(rng.uniform(0, 0.8))  # a random moment is the point
    kill(stage, key, entry)
    wait_until(lambda: len({edge[1] for edge in stage.written(key, "edges") if edge[0] == "end"}) >= len(names), 90)
    stage.wait_until_quiet()
    edges = stage.written(key, "edges")
    entry.doubled += overlaps(edges)
    ends = [edge[1] for edge in edges if edge[0] == "end"]
    entry.expect(len(ends) <= len(names) + 1, f"{len(ends)} ends of {len(names)} jobs")
    entry.expect(not stage.bus.locks.all(), f"locks are left: {stage.bus.locks.all()}")
    entry.judge()


@pytest.mark.promise("at most one running per overlap key, whatever dies")
@pytest.mark.short(1)
@pytest.mark.slow
def test_a_worker_that_stands_still_lets_no_two_run(stage: Stage, entry: Entry, rng: random.Random) -> None:
    """The main process of one of two workers stops for longer than a lease, and than a broker waits; nothing dies."""
    stage.start(2)
    key, names = str(uuid()), [f"{number}" for number in range(10)]
    for name in names:
        stage.sig("overlap", key, name, 0.6).apply_async()
    wait_until(lambda: stage.written(key, "edges"), 30)
    time.sleep(rng.uniform(0, 1))  # a random moment is the point
    worker = rng.choice(stage.workers)
    worker.send(signal.SIGSTOP)
    time.sleep(LEASE * 1.5)
    worker.send(signal.SIGCONT)
    entry.fault("worker stopped and continued")
    wait_until(lambda: len({edge[1] for edge in stage.written(key, "edges") if edge[0] == "end"}) >= len(names), 90)
    stage.wait_until_quiet()
    edges = stage.written(key, "edges")
    entry.doubled += overlaps(edges)
    ends = [edge[1] for edge in edges if edge[0] == "end"]
    entry.doubled += [f"{len(ends)} ends of {len(names)} jobs"] * (len(ends) > len(names))
    stage.workers.pop().terminate()
    entry.judge()


class Dispatched:
    """Dispatches of one unique key from within a worker."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.key = stage, str(uuid())
        self.send()

    def send(self) -> None:
        self.stage.app.tasks["dispatch_once"].delay(self.key, str(uuid()))

    def ends(self) -> list[str]:
        return [edge[1] for edge in self.stage.written(self.key, "edges") if edge[0] == "end"]

    def close(self) -> None:
        """There is nothing to end."""


@pytest.mark.promise("at most one queued or running job per unique key; a crash blocks it for a lease at most")
@pytest.mark.short(3)
def test_a_unique_key_is_never_blocked(stage: Stage, sweep: Sweep) -> None:
    """A process is killed between the lock and the message, or between the job's end and the freeing, or elsewhere."""
    entry = sweep.entry
    since = 0.0

    def go_on(dispatched: Dispatched) -> bool:
        nonlocal since
        if any(step.killed for step in stage.plan.trail()) and not since:
            since = time.monotonic()
            stage.record.add(dispatched.key, "edges", ["killed", "", 0])
        if since and not dispatched.ends():
            dispatched.send()  # suppressed, until the key is free
        return bool(dispatched.ends())

    dispatched = sweep.run("unique", lambda: Dispatched(stage), go_on)
    taken = time.monotonic() - since if since else 0.0
    entry.expect(taken < LEASE * 4 + 20, f"the key was blocked for {taken:.0f} s")  # restarts take their time, too
    entry.doubled += overlaps(stage.written(dispatched.key, "edges"))
    wait_until(lambda: not stage.bus.locks.all(), LEASE * 4, message="all locks to be free")
    fresh = stage.app.tasks["once"].delay(dispatched.key, "later")
    entry.expect(not fresh.suppressed, "the key is blocked although nothing runs")
    wait_until(lambda: fresh.id in dispatched.ends(), 30)
    stage.wait_until_quiet()
    entry.judge()


@pytest.mark.promise("never more than N starts per window")
@pytest.mark.short(1)
def test_no_window_has_too_many_starts(stage: Stage, entry: Entry, rng: random.Random) -> None:
    """In whatever span of a window's length, at most two windows' starts: those whose whole claim lies within it."""
    stage.start()
    key, names = str(uuid()), [f"{number}" for number in range(40)]
    for name in names:
        stage.sig("limited", key, name).apply_async()
    wait_until(lambda: len(stage.written(key, "starts")) > rng.randrange(20), 60)
    stage.kill()
    entry.fault("worker killed", len(stage.workers))
    stage.start()
    wait_until(lambda: {start[0] for start in stage.written(key, "starts")} >= set(names), 120)
    stage.wait_until_quiet(90)
    asked = sorted((start[1], start[2]) for start in stage.written(key, "starts"))
    for begin, _ in asked:
        first = bisect_left(asked, (begin,))
        within = sum(end < begin + WINDOW for _, end in asked[first:])
        entry.expect(within <= 2 * PER_WINDOW, f"{within} starts within {WINDOW} s")
    entry.judge()
