"""A job that puts itself back may be run, and end, before the process that put it back has told Celery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid

from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.jobs.conftest import Lab, MakeLab
    from tests.support.worker import RunningWorker

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]


@pytest.fixture(scope="module", params=["redis", "database"])
def place(
    request: pytest.FixtureRequest, make_lab: MakeLab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Lab, RunningWorker]]:
    """A lab whose results are in Redis or in a database, and a worker whose processes are held up."""
    conf: dict[str, Any] = {"worker_send_task_events": True}
    if request.param == "database":
        conf["result_backend"] = f"db+sqlite:///{tmp_path_factory.mktemp('results') / 'results.db'}"
    lab = make_lab(**conf)
    with lab.worker(app="tests.support.held_up_app") as worker:
        yield lab, worker


@pytest.mark.parametrize("last", ["return:done", "fail:no"])
@pytest.mark.parametrize(
    ("task", "first", "reason"),
    [
        ("tries3", "release:0", "None"),
        ("tries3", "raise:x", "OSError('x')"),
        ("bare", "release:0", "None"),
        ("celery_retry", "retry", "OSError('retried')"),
        ("celery_autoretry", "raise:x", "OSError('x')"),
    ],
)
def test_what_is_stored_of_it_is_how_it_ended(
    place: tuple[Lab, RunningWorker], task: str, first: str, reason: str, last: str
) -> None:
    lab, worker = place
    result, key = lab.send(task, first, last)
    worker.wait_for_log(f"Task {task}[{result.id}] retry")
    wait_until(lambda: lab.written(key, "task_retry"), message="the signal that comes after the state")
    state = "SUCCESS" if last == "return:done" else "FAILURE"
    assert lab.app.AsyncResult(result.id).state == state
    assert lab.written(key, "task_retry") == [reason]
    assert len(lab.written(key, "runs")) == 2


def test_a_record_that_is_retried_before_its_failure_is_stored_keeps_its_new_end(
    place: tuple[Lab, RunningWorker],
) -> None:
    lab, worker = place
    result, key = lab.send("tries1", "raise:first", "raise:second", key=f"held-{uuid()}")
    wait_until(lambda: lab.bus.failed.find(result.id), interval=0.01)
    assert lab.bus.failed.retry(result.id) == 1
    for error in ("first", "second"):
        worker.wait_for_log(f"Task tries1[{result.id}] raised unexpected: OSError('{error}')")
    assert str(lab.app.AsyncResult(result.id).result) == "second"
    assert lab.attempts(key) == [1, 1]
    assert lab.bus.failed.find(result.id).exception == "OSError: second"


def test_a_batch_that_is_retried_by_its_catch_keeps_its_new_end(place: tuple[Lab, RunningWorker]) -> None:
    """The catch comes when the failure is counted, which is before its record is kept and its result stored."""
    lab, worker = place
    key = f"held-{uuid()}"
    batch = lab.bus.batch([lab.sig("tries1", "raise:first", "wait+return:done", key=key)]).dispatch()
    wait_until(lambda: batch.fresh().failed_jobs == 1, interval=0.01)
    batch.retry()
    job_id = lab.wait_for(key, "runs", 2)[1]["id"]
    worker.wait_for_log(f"Task tries1[{job_id}] raised unexpected: OSError('first')")
    assert lab.app.AsyncResult(job_id).state != "FAILURE"
    lab.go_on(key)
    finished = batch.wait(timeout=30)
    assert (finished.failed_jobs, finished.pending_jobs) == (0, 0)
    assert lab.app.AsyncResult(job_id).get(timeout=30) == "done"
