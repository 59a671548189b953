"""Failed jobs that are sent again by a process that is killed, or while their servers go: none is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid

from celery_laravel.dispatch import failed_jobs
from celery_laravel.testing.faults import put_points
from celery_laravel.testing.processes import wait_until
from tests.stores.redis_servers import own_server
from tests.support.worker import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.matrix,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

CLAIM = 3
"""Seconds, in the place of half a minute."""

RETRY_AND_DIE = f"""
import sys
from datetime import timedelta
from celery_laravel import Bus
from celery_laravel.dispatch import failed_jobs
from celery_laravel.testing.faults import Dies, put_points
from tests.support.jobs_app import app

failed_jobs.CLAIM = timedelta(seconds={CLAIM})
put_points(app, Dies(at=sys.argv[2]))
Bus(app).failed.retry(sys.argv[1])
"""


@pytest.fixture(scope="module", params=["redis", "postgresql", "mariadb"])
def lab_of_store(request: pytest.FixtureRequest, make_lab: MakeLab) -> Any:
    """A lab with a worker, whose store is the one named."""
    lab = make_lab(store=request.param)
    store = lab.bus.failed._store
    if request.param != "redis":
        from celery_laravel.stores.factory import store_of

        store_of(lab.app).migrate()  # type: ignore[attr-defined]  # the tables of SQL stores alone
    assert store.count() == 0
    with lab.worker():
        yield lab


def retry_and_die(lab: Lab, job_id: str, point: str) -> None:
    """Retry a job in a process that is killed when it comes to a point."""
    places = {f"JOBS_{name.upper()}": value for name, value in lab.places.items()}
    env = {**os.environ, **places, "JOBS_CONF": json.dumps(lab.conf), "C_FORCE_ROOT": "1"}
    command = [sys.executable, "-c", RETRY_AND_DIE, job_id, point]
    assert subprocess.run(command, env=env, cwd=ROOT, check=False, timeout=60).returncode == -signal.SIGKILL


def failed(lab: Lab, job_id: str) -> Any:
    """The record of a job, when its failure is stored too: a retry may run into the storing."""
    wait_until(lambda: lab.app.AsyncResult(job_id).state == "FAILURE")
    return wait_until(lambda: lab.bus.failed.find(job_id))


@pytest.mark.parametrize(
    "point", ["failed_jobs.claim:after", "publish:before", "publish:after", "failed_jobs.forget:before"]
)
def test_a_retry_that_is_killed_loses_no_job(lab_of_store: Lab, point: str) -> None:
    lab = lab_of_store
    result, key = lab.send("tries1", "raise:x", "return:done")
    record = failed(lab, result.id)
    retry_and_die(lab, result.id, point)
    left = lab.bus.failed.find(result.id)
    assert left == record
    assert left.claimed_until is not None
    wait_until(lambda: lab.bus.failed.retry(result.id) == 1, CLAIM + 30)
    wait_until(lambda: lab.app.AsyncResult(result.id).state == "SUCCESS")
    assert lab.bus.failed.find(result.id) is None
    assert lab.attempts(key) == [1, 1], "a second copy of a job that has ended is not run"


def test_a_member_whose_retry_was_killed_is_retried_with_its_batch(lab_of_store: Lab) -> None:
    """It is pending, with nothing sent, and none of the failed ones any more."""
    lab = lab_of_store
    keys = [uuid(), uuid()]
    steps = [lab.sig("tries1", "raise:x", "return:done", key=keys[0]), lab.sig("plain", "return:after", key=keys[1])]
    batch = lab.bus.batch([steps]).allow_failures().dispatch().wait(timeout=30)
    (job_id,) = batch.failed_job_ids
    failed(lab, job_id)
    retry_and_die(lab, job_id, "publish:before")
    left = batch.fresh()
    assert left is not None
    assert (left.failed_jobs, left.pending_jobs, left.finished) == (0, 2, False)
    finished = wait_until(lambda: (again := left.retry()).finished and again, CLAIM + 30)
    assert (finished.failed_jobs, finished.skipped_jobs, finished.pending_jobs) == (0, 0, 0)
    assert [lab.attempts(key) for key in keys] == [[1, 1], [1]]
    assert lab.bus.failed.find(job_id) is None


def test_a_job_that_fails_again_at_once_keeps_its_new_record(lab_of_store: Lab) -> None:
    """The old one is still claimed then, and whoever claimed it removes no other."""
    lab = lab_of_store
    result, _ = lab.send("tries1", "raise:first", "raise:second", "return:done")
    failed(lab, result.id)

    def wait_for_the_next_failure(point: str) -> None:
        if point == "publish:after":
            wait_until(lambda: lab.bus.failed._store.find(result.id).exception == "OSError: second")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lab.app.amqp, "send_task_message", lab.app.amqp.send_task_message)  # and put back
        put_points(lab.app, wait_for_the_next_failure)
        assert lab.bus.failed.retry(result.id) == 1
    left = failed(lab, result.id)
    assert (left.exception, left.claimed_until) == ("OSError: second", None)
    assert lab.bus.failed.retry(result.id) == 1
    wait_until(lambda: lab.app.AsyncResult(result.id).state == "SUCCESS")


def test_a_record_outlives_store_and_broker_that_go_together(
    make_lab: MakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One Redis is both: neither can the job be sent, nor the claim given up."""
    monkeypatch.setattr(failed_jobs, "CLAIM", timedelta(seconds=CLAIM))
    with own_server(tmp_path / "redis") as server:
        lab = make_lab(broker=server.url, store=server.url)
        gone: list[str] = []

        def stop(point: str) -> None:
            if point == "publish:before" and not gone:
                gone.append(point)
                with server.client() as client:
                    client.save()
                server.stop()

        with lab.worker():
            result, key = lab.send("tries1", "raise:x", "return:done")
            record = failed(lab, result.id)
        put_points(lab.app, stop)
        bus = type(lab.bus)(lab.app)  # whose store has the points
        with pytest.raises(Exception, match=r"(?i)connect"):
            bus.failed.retry(result.id)
        assert gone
        server.start()
        assert bus.failed.all() == [record]
        wait_until(lambda: bus.failed.retry(result.id) == 1, CLAIM + 30)
        with lab.worker():
            wait_until(lambda: lab.app.AsyncResult(result.id).state == "SUCCESS")
        assert lab.attempts(key) == [1, 1]
        assert bus.failed.count() == 0
