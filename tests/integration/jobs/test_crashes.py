"""Processes killed while jobs run: starts are counted outside, and each job ends once."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.exceptions import TaskRevokedError
from celery.utils import uuid

from celery_laravel import MaxAttemptsExceededError
from celery_laravel.testing.processes import free_port, wait_until

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

SHORT_LEASES = {"JOBS_LEASE": "3"}
"""For workers that are killed as a whole: nobody is left who ends the leases of their attempts, which last a minute."""


def test_a_job_that_kills_its_process_starts_as_often_as_its_tries_and_then_fails_once(lab: Lab) -> None:
    result, key = lab.send("tries3", "die")
    with pytest.raises(MaxAttemptsExceededError, match="attempt 4 of 3"):
        result.get(timeout=40)
    assert lab.attempts(key) == [1, 2, 3]
    assert len(lab.wait_for(key, "failed")) == 1
    record = wait_until(lambda: lab.bus.failed.find(result.id))
    assert record.exception.startswith("MaxAttemptsExceededError")
    assert lab.send("plain", "return:alive")[0].get(timeout=30) == "alive"
    assert lab.attempts(key) == [1, 2, 3]
    assert len(lab.written(key, "failed")) == 1


def test_an_attempt_after_a_crash_may_succeed(lab: Lab) -> None:
    result, key = lab.send("tries3", "die", "raise:x", "return:done")
    assert result.get(timeout=40) == "done"
    assert lab.attempts(key) == [1, 2, 3]


def test_crashes_and_releases_count_alike(lab: Lab) -> None:
    result, key = lab.send("tries3", "release", "die", "return:done")
    assert result.get(timeout=40) == "done"
    assert lab.attempts(key) == [1, 2, 3]


def test_the_log_names_the_job_that_is_put_back_as_its_process_is_gone(make_lab: MakeLab) -> None:
    """Celery's own line tells of a process, and of no job."""
    lab = make_lab()
    with lab.worker() as worker:
        result, _ = lab.send("tries3", "die", "return:done")
        assert result.get(timeout=40) == "done"
        worker.wait_for_log(f"Job {result.id} (tries3) is put back, as its process is gone: WorkerLostError(")


def test_a_job_that_is_acknowledged_early_fails_when_its_process_dies(lab: Lab) -> None:
    result, key = lab.send("early", "die")
    with pytest.raises(WorkerLostError):
        result.get(timeout=40)
    assert lab.attempts(key) == [1]
    ends_once(lab, key, result.id, WorkerLostError)


def main_process(lab: Lab) -> int:
    """The process of the lab's worker that is no child."""
    (stats,) = lab.app.control.inspect(timeout=20, limit=1).stats().values()  # no other worker has the lab's prefix
    return int(stats["pid"])


@pytest.mark.parametrize(
    ("task", "attempts", "error"),
    [("tries3", [1, 2, 3], MaxAttemptsExceededError), ("early", [1], WorkerLostError), ("plain", [1], WorkerLostError)],
)
def test_a_job_that_exits_its_process_is_failed_once(
    lab: Lab, task: str, attempts: list[int], error: type[Exception]
) -> None:
    """``sys.exit()`` ends the process, as a crash does."""
    result, key = lab.send(task, "exit:3")
    with pytest.raises(error):
        result.get(timeout=60)
    ends_once(lab, key, result.id, error)
    assert lab.attempts(key) == attempts


@pytest.mark.parametrize(("task", "error"), [("tries1", MaxAttemptsExceededError), ("early", WorkerLostError)])
def test_a_member_that_exits_its_process_is_counted_once(lab: Lab, task: str, error: type[Exception]) -> None:
    key, job_id, notes = uuid(), uuid(), uuid()
    jobs = [lab.sig(task, "exit", key=key).set(task_id=job_id), lab.sig("plain", "return:x", key=uuid())]
    pending = lab.bus.batch(jobs).allow_failures().catch(lab.app.tasks["note"].s("catch", notes))
    batch = pending.finally_(lab.app.tasks["note"].s("finally", notes)).dispatch().wait(timeout=60)
    assert (batch.total_jobs, batch.failed_jobs, batch.pending_jobs) == (2, 1, 0)
    lab.wait_for(notes, "notes", 2)
    ends_once(lab, key, job_id, error)
    assert sorted(note[-1] for note in lab.written(notes, "notes")) == ["'catch'", "'finally'"]


@pytest.mark.parametrize(("task", "error"), [("tries1", MaxAttemptsExceededError), ("early", WorkerLostError)])
def test_a_step_that_exits_its_process_is_caught_once(lab: Lab, task: str, error: type[Exception]) -> None:
    key, job_id, after = uuid(), uuid(), uuid()
    steps = [lab.sig(task, "exit", key=key).set(task_id=job_id), lab.sig("plain", "return:x", key=after)]
    lab.bus.chain(steps).catch(lab.app.tasks["note"].s("caught", key)).dispatch()
    ((caught, _),) = lab.wait_for(key, "notes", timeout=60)
    assert caught.startswith(error.__name__)
    ends_once(lab, key, job_id, error)
    assert len(lab.written(key, "notes")) == 1
    assert lab.attempts(after) == []


def ends_once(lab: Lab, key: str, job_id: str, error: type[Exception]) -> None:
    """The job's hook was called once, outside of the worker's main process, and one record is kept."""
    (called,) = lab.wait_for(key, "failed")
    assert called.startswith(error.__name__)
    assert wait_until(lambda: lab.bus.failed.find(job_id)).exception.startswith(error.__name__)
    assert lab.send("plain", "return:alive")[0].get(timeout=30) == "alive"  # nothing of the job's is on its way
    assert main_process(lab) not in {pid for pid, *_ in lab.wait_for(key, "failed_in")}
    assert len(lab.written(key, "failed")) == 1
    assert [record.id for record in lab.bus.failed.all()].count(job_id) == 1


@pytest.mark.parametrize("signum", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("task", ["tries3", "early", "plain"])
def test_a_step_that_is_terminated_as_it_runs_is_caught_once(lab: Lab, task: str, signum: str) -> None:
    key, job_id, after = uuid(), uuid(), uuid()
    steps = [lab.sig(task, "wait:60", key=key).set(task_id=job_id), lab.sig("plain", "return:x", key=after)]
    lab.bus.chain(steps).catch(lab.app.tasks["note"].s("caught", key)).dispatch()
    lab.wait_for(key, "runs")
    lab.app.control.revoke(job_id, terminate=True, signal=signum)
    ((caught, _),) = lab.wait_for(key, "notes")
    assert caught.startswith("TaskRevokedError")
    ends_once(lab, key, job_id, TaskRevokedError)
    assert len(lab.written(key, "notes")) == 1
    assert (lab.attempts(key), lab.attempts(after)) == ([1], [])
    assert lab.app.AsyncResult(job_id).state == "REVOKED"


def test_the_hook_of_a_step_that_has_expired_is_called_once_outside_of_the_main_process(lab: Lab) -> None:
    key, job_id = uuid(), uuid()
    step = lab.sig("tries3", "return:never", key=key).set(task_id=job_id, expires=-1)
    lab.bus.chain([step]).catch(lab.app.tasks["note"].s("caught", key)).dispatch()
    lab.wait_for(key, "notes")
    ends_once(lab, key, job_id, TaskRevokedError)
    assert (len(lab.written(key, "notes")), lab.attempts(key)) == (1, [])


def test_a_hard_time_limit_fails_a_job_once(lab: Lab) -> None:
    errback = uuid()
    result, key = lab.send("tries1", "wait:20", time_limit=1, link_error=lab.app.tasks["note"].si("errback", errback))
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=40)
    assert len(lab.wait_for(key, "failed")) == 1
    ((pid, job_id, attempt),) = lab.wait_for(key, "failed_in")
    assert (job_id, attempt) == (result.id, 1)
    assert main_process(lab) not in {pid, *lab.wait_for(result.id, "signals_in")}
    wait_until(lambda: "job_failed" in lab.written(result.id, "signals"))
    assert lab.wait_for(errback, "notes") == [["'errback'"]]
    assert wait_until(lambda: lab.bus.failed.find(result.id)).exception.startswith("TimeLimitExceeded")
    assert lab.send("plain", "return:alive")[0].get(timeout=30) == "alive"
    assert len(lab.written(key, "failed")) == 1


def test_a_plain_task_ends_as_under_celery_when_its_process_dies(lab: Lab) -> None:
    result, key = lab.send("bare", "die")
    with pytest.raises(WorkerLostError):
        result.get(timeout=40)
    assert lab.attempts(key) == [1]
    assert lab.bus.failed.find(result.id) is None


@pytest.mark.parametrize("task", ["bare", "plain", "tries1", "early"])
def test_a_member_that_kills_its_process_does_not_leave_its_batch_waiting(lab: Lab, task: str) -> None:
    key = uuid()
    batch = lab.bus.batch([lab.sig(task, "die", key=key), lab.sig("plain", "return:x", key=uuid())]).dispatch()
    batch = batch.wait(timeout=60)
    assert (batch.total_jobs, batch.failed_jobs, batch.pending_jobs) == (2, 1, 0)
    assert 1 <= len(lab.attempts(key)) <= 3


def test_a_member_over_its_hard_limit_does_not_leave_its_batch_waiting(lab: Lab) -> None:
    steps = [lab.sig("bare", "wait:20", key=uuid()).set(time_limit=1), lab.sig("plain", "return:x", key=uuid())]
    batch = lab.bus.batch([steps]).dispatch().wait(timeout=40)
    assert (batch.total_jobs, batch.failed_jobs, batch.skipped_jobs, batch.pending_jobs) == (2, 1, 1, 0)


@pytest.mark.matrix
def test_a_member_whose_process_dies_after_its_success_is_counted_once(lab: Lab) -> None:
    key = uuid()
    batch = lab.bus.batch([lab.app.tasks["dies_late"].si(key), lab.sig("plain", "return:x", key=uuid())]).dispatch()
    batch = batch.wait(timeout=40)
    assert (batch.total_jobs, batch.failed_jobs, batch.pending_jobs) == (2, 0, 0)
    assert 1 <= len(lab.written(key, "runs")) <= 2


def test_a_terminated_member_does_not_leave_its_batch_waiting(lab: Lab) -> None:
    key = uuid()
    batch = lab.bus.batch([lab.sig("plain", "wait:20", key=key), lab.sig("plain", "return:x", key=uuid())]).dispatch()
    lab.wait_for(key, "runs")
    lab.app.control.revoke(lab.written(key, "runs")[0]["id"], terminate=True, signal="SIGKILL")
    batch = batch.wait(timeout=40)
    assert (batch.total_jobs, batch.failed_jobs, batch.pending_jobs) == (2, 1, 0)


@pytest.mark.slow
def test_whole_workers_killed_at_random_start_no_job_more_often_than_its_tries(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.worker(env=SHORT_LEASES) as worker:
        jobs = [lab.send("tries3", "wait:60") for _ in range(2)]
        for attempt in range(1, 4):
            for _, key in jobs:
                lab.wait_for(key, "runs", attempt)
            worker.kill()
            worker.restart()
        for result, key in jobs:
            with pytest.raises(MaxAttemptsExceededError):
                result.get(timeout=40)
            assert lab.attempts(key) == [1, 2, 3]
            assert len(lab.wait_for(key, "failed")) == 1
        assert lab.bus.failed.count() == 2


@pytest.mark.slow
@pytest.mark.rabbitmq
def test_a_batch_survives_its_workers(make_lab: MakeLab) -> None:
    lab = make_lab(broker="rabbitmq")  # kombu's Redis transport may lose what a killed worker was about to take
    with lab.worker(env=SHORT_LEASES) as worker:
        keys = [uuid() for _ in range(30)]
        note_key = uuid()
        jobs = [lab.sig("tries3" if n % 3 else "bare", "wait:0.1+return:x", key=key) for n, key in enumerate(keys)]
        pending = lab.bus.batch(jobs).then(lab.app.tasks["note"].s("then", note_key))
        batch = pending.finally_(lab.app.tasks["note"].s("finally", note_key)).dispatch()
        for done in (5, 15):
            wait_until(lambda done=done: batch.fresh().processed_jobs >= done)  # type: ignore[misc]
            worker.kill()
            worker.restart()
        finished = batch.wait(timeout=60)
        assert (finished.total_jobs, finished.pending_jobs, finished.failed_jobs) == (30, 0, 0)
        lab.wait_for(note_key, "notes", 2)
        assert lab.send("plain", "return:x")[0].get(timeout=30) == "x"
        assert len(lab.written(note_key, "notes")) == 2
        assert all(1 <= len(lab.attempts(key)) <= 3 for key in keys)


def test_a_job_does_not_run_while_its_attempts_cannot_be_counted(make_lab: MakeLab) -> None:
    """It is put back; a plain task needs no store, and runs."""
    lab = make_lab(store=f"redis://127.0.0.1:{free_port()}/0")
    with lab.worker() as worker:
        result, key = lab.send("tries3", "return:x")
        wait_until(lambda: result.state == "RETRY")
        worker.wait_for_log("the store does not answer")
        assert lab.send("bare", "return:x")[0].get(timeout=30) == "x"
        assert lab.attempts(key) == []


def test_prefetched_jobs_use_up_nothing_when_the_worker_is_stopped(make_lab: MakeLab) -> None:
    lab = make_lab(worker_prefetch_multiplier=4)
    with lab.worker(concurrency=1) as worker:
        _, first = lab.send("tries3", "wait:20", "return:x")
        lab.wait_for(first, "runs")
        result, key = lab.send("tries1", "return:done")
        os.kill(worker.pid, signal.SIGTERM)
        lab.go_on(first)
        worker.process.wait(30)
        worker.restart()
        assert result.get(timeout=30) == "done"
        assert lab.attempts(key) == [1]
