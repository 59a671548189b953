"""Jobs under load while their processes and workers are killed: none is lost, started too often, or failed twice."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid

from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.chaos.ledger import Entry
    from tests.chaos.stage import Stage

pytestmark = [pytest.mark.redis, pytest.mark.timeout(300)]

TRIES = 3
SCRIPTS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "succeeds": ("tries3", ["return:x"], {}),
    "fails": ("tries3", ["raise:x"], {}),
    "fails once": ("tries3", ["raise:x", "return:x"], {}),
    "is released": ("tries3", ["release:0.1", "return:x"], {}),
    "dies once": ("tries3", ["die", "return:x"], {}),
    "dies always": ("tries3", ["die"], {}),
    "hangs": ("tries3", ["wait:60"], {"time_limit": 1}),
    "takes its time": ("tries3", ["wait:1+return:x"], {}),
}
"""What a job does at each of its starts, and how it is sent."""


@dataclass
class Sent:
    """A job that was sent, and what it was to do."""

    script: str
    key: str
    result: Any
    hooks: int = 1
    """How often its hook may be called: once more where a crash came between the hook and what is written after it."""

    def has_ended(self) -> bool:
        return self.result.state in {"SUCCESS", "FAILURE"}

    def was_cut_off(self, stage: Stage) -> None:
        """Take note that all workers have been killed, and none has started again.

        The hook of a job over its hard limit is called by another job, which
        keeps no record that says whether it had ended.
        """
        called = len(stage.written(self.key, "failed"))
        if called and (self.script == "hangs" or stage.bus.failed.find(self.result.id) is None):
            self.hooks = called + 1


def send(stage: Stage, script: str) -> Sent:
    task, steps, options = SCRIPTS[script]
    key = str(uuid())
    return Sent(script, key, stage.app.tasks[task].apply_async((key, steps), **options))


def kill_workers(stage: Stage, entry: Entry, seconds: float, jobs: Sequence[Sent] = ()) -> None:
    """Kill all workers after so many seconds, and start them again."""
    time.sleep(seconds)  # a random moment is the point
    stage.kill()
    entry.fault("worker killed", len(stage.workers))
    for job in jobs:
        job.was_cut_off(stage)
    stage.start()


@pytest.mark.promise("a job starts at most `tries` times, is never lost, and fails once")
@pytest.mark.short(1)
def test_every_job_ends_once(stage: Stage, entry: Entry, rng: random.Random) -> None:
    stage.start()
    scripts = [*SCRIPTS, *rng.choices(list(SCRIPTS), weights=[8, 2, 2, 2, 2, 1, 1, 6], k=12)]
    rng.shuffle(scripts)
    jobs = [send(stage, script) for script in scripts]
    for _ in range(2):
        kill_workers(stage, entry, rng.uniform(0.2, 3), jobs)
    entry.fault("process killed", sum(job.script.startswith("dies") for job in jobs))
    wait_until(lambda: all(job.has_ended() for job in jobs), 120, message="the end of all jobs")
    stage.wait_until_quiet()
    for job in jobs:
        check(stage, entry, job)
    entry.judge()


def check(stage: Stage, entry: Entry, job: Sent) -> None:
    name = f"{job.script} ({job.key})"
    attempts = [run["attempt"] for run in stage.written(job.key, "runs")]
    entry.expect(len(attempts) <= TRIES, f"{name} started {len(attempts)} times")
    entry.expect(attempts == sorted(set(attempts)), f"{name} started as {attempts}")
    hooks, record = stage.written(job.key, "failed"), stage.bus.failed.find(job.result.id)
    has_failed = job.result.state == "FAILURE"
    entry.expect(has_failed == (record is not None), f"{name}: {job.result.state}, and its record: {record}")
    if has_failed and not hooks:
        entry.lost.append(f"the failure of {name}")
    if not has_failed and not attempts:
        entry.lost.append(name)
    if len(hooks) > job.hooks:
        entry.doubled.append(f"the failure of {name}")
    callers = [pid for pid, *_ in stage.written(job.key, "failed_in")]
    entry.expect(len(set(callers)) == len(hooks), f"{name}: one process has called its hook twice: {callers}")
    if job.script in {"fails", "dies always"}:
        entry.expect(has_failed, f"{name}: {job.result.state}")


@pytest.mark.promise("a job is never lost: 2,000 at full speed, whole workers killed")
@pytest.mark.short(1)
@pytest.mark.slow
def test_no_job_is_lost_at_full_speed(stage: Stage, entry: Entry, rng: random.Random) -> None:
    """Each run is a quarter of 2,000 jobs with a kill at its time, four times."""
    stage.start()
    key, names = str(uuid()), [f"{number}" for number in range(2000)]
    for part in range(4):
        for name in names[part * 500 : part * 500 + 500]:
            stage.sig("member3", key, name).apply_async()
        share = part * 500 + rng.randrange(20, 400)
        wait_until(lambda share=share: len(stage.written(key, "done")) >= share, 60)  # type: ignore[misc]
        kill_workers(stage, entry, 0)
    stage.wait_until_quiet(120)
    done = {step["name"] for step in stage.written(key, "done")}
    failed = {step["name"] for step in stage.written(key, "failed")}
    entry.lost += sorted(set(names) - done - failed)
    entry.doubled += sorted(done & failed)
    starts = [step["name"] for step in stage.written(key, "started")]
    entry.expect(max(map(starts.count, set(starts))) <= TRIES, "more starts than tries")
    entry.judge()
