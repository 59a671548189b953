"""Whole workers that are killed when a job's result is stored, and nothing else of its end is written down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid

from celery_laravel.testing.processes import wait_until
from tests.integration.jobs.test_outages import own_redis, stop

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import Lab, MakeLab
    from tests.stores.redis_servers import OwnServer
    from tests.support.worker import RunningWorker

__all__ = ["own_redis"]

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

WORKER: dict[str, Any] = {"concurrency": 1, "env": {"JOBS_LEASE": "2"}}


def dies(worker: RunningWorker) -> None:
    """The worker has been killed by the job, all of its processes."""
    wait_until(lambda: not (worker.is_running or worker.pids()), message="the worker's end")


def has_succeeded(lab: Lab, job_id: str, key: str) -> None:
    """The job ran once, and nobody says that it has failed."""
    meta = lab.app.backend.get_task_meta(job_id)
    assert (meta["status"], meta["result"]) == ("SUCCESS", "run 1")
    assert (len(lab.written(key, "runs")), lab.written(key, "failed")) == (1, [])
    assert lab.bus.failed.find(job_id) is None


@pytest.mark.parametrize("broker", ["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def test_a_member_without_attempts_left_has_succeeded(make_lab: MakeLab, broker: str) -> None:
    lab = make_lab(broker=broker)
    key, job_id, notes = uuid(), uuid(), uuid()
    with lab.worker(**WORKER) as worker:
        pending = lab.bus.batch([lab.app.tasks["loses_worker_tries1"].si(key).set(task_id=job_id)])
        batch = pending.then(lab.app.tasks["note"].s("then", notes)).dispatch()
        dies(worker)
        worker.restart()
        batch = batch.wait(timeout=60)
        assert (batch.total_jobs, batch.failed_jobs, batch.pending_jobs) == (1, 0, 0)
        lab.wait_for(notes, "notes")
        has_succeeded(lab, job_id, key)


def test_a_unique_job_without_attempts_left_has_succeeded_and_frees_its_key(make_lab: MakeLab) -> None:
    lab = make_lab()
    key, job = uuid(), lab.app.tasks["loses_worker_unique"]
    with lab.worker(**WORKER) as worker:
        result = job.delay(key)
        dies(worker)
        worker.restart()
        worker.wait_for_log("had succeeded before its message came again", timeout=60)
        wait_until(lambda: not lab.bus.locks.all())
        has_succeeded(lab, result.id, key)
        again = job.delay(key)
        assert not again.suppressed
        assert again.get(timeout=30) == "run 2"


def test_a_step_of_a_chain_without_attempts_left_is_not_caught_and_the_chain_goes_on(make_lab: MakeLab) -> None:
    lab = make_lab()
    key, job_id, after, notes = uuid(), uuid(), uuid(), uuid()
    steps = [lab.app.tasks["loses_worker_tries1"].si(key).set(task_id=job_id), lab.sig("plain", "return:x", key=after)]
    with lab.worker(**WORKER) as worker:
        lab.bus.chain(steps).catch(lab.app.tasks["note"].s("caught", notes)).dispatch()
        dies(worker)
        worker.restart()
        worker.wait_for_log("had succeeded before its message came again", timeout=60)
        lab.wait_for(after, "runs")
        has_succeeded(lab, job_id, key)
        assert (lab.written(notes, "notes"), len(lab.written(after, "runs"))) == ([], 1)


def test_while_the_result_backend_is_away_it_waits(make_lab: MakeLab, own_redis: OwnServer) -> None:
    lab = make_lab(result_backend=own_redis.url)
    lab.places["backend"] = own_redis.url
    key, job_id = uuid(), uuid()
    with lab.worker(**WORKER) as worker:
        batch = lab.bus.batch([lab.app.tasks["loses_worker_tries1"].si(key).set(task_id=job_id)]).dispatch()
        dies(worker)
        stop(own_redis)
        worker.restart()
        worker.wait_for_log("the result backend does not tell", timeout=60)
        own_redis.start()
        batch = batch.wait(timeout=60)
        assert (batch.total_jobs, batch.failed_jobs, batch.pending_jobs) == (1, 0, 0)
        has_succeeded(lab, job_id, key)


def test_one_that_celery_would_drop_as_succeeded_is_settled(make_lab: MakeLab) -> None:
    """With Celery's ``worker_deduplicate_successful_tasks``; it would leave the batch waiting for ever."""
    lab = make_lab(worker_deduplicate_successful_tasks=True)
    key, job_id = uuid(), uuid()
    with lab.worker(**WORKER) as worker:
        batch = lab.bus.batch([lab.app.tasks["loses_worker_tries3"].si(key).set(task_id=job_id)]).dispatch()
        dies(worker)
        worker.restart()
        batch = batch.wait(timeout=60)
        assert (batch.total_jobs, batch.failed_jobs, batch.pending_jobs) == (1, 0, 0)
        has_succeeded(lab, job_id, key)
