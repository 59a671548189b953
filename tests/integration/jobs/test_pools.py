"""The same jobs in every pool of Celery's, on another broker, with another store, and under a worker's options."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from billiard.exceptions import TimeLimitExceeded
from celery import chord
from celery.utils import uuid

from celery_laravel import JobTimedOutError, MaxAttemptsExceededError
from celery_laravel.stores.factory import store_of
from celery_laravel.testing.processes import ProcessFailedError, wait_until

if TYPE_CHECKING:
    from tests.integration.jobs.conftest import Lab, MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]


def check_the_life_of_jobs(lab: Lab) -> None:
    """What every combination must do, all at once so that jobs run side by side."""
    done, done_key = lab.send("tries3", "raise:x", "release:0.2", "return:done")
    failed, failed_key = lab.send("tries3", "raise:no")
    released, released_key = lab.send("tries3", "release")
    plain, plain_key = lab.send("plain", "release", "delete+return:5")
    note_key = uuid()
    jobs = [lab.sig("tries3", "release", "return:x", key=uuid()) for _ in range(3)]
    jobs.append(lab.sig("plain", "raise:x", key=uuid()))
    callbacks = [lab.app.tasks["note"].s(kind, note_key) for kind in ("then", "finally")]
    batch = lab.bus.batch(jobs).allow_failures().then(callbacks[0]).finally_(callbacks[1]).dispatch()
    chorded = chord([lab.sig("tries3", "release", "return:y", key=uuid())] * 2, lab.app.tasks["total"].s(uuid()))
    values = chorded.apply_async()

    assert done.get(timeout=30) == "done"
    with pytest.raises(OSError, match="no"):
        failed.get(timeout=30)
    with pytest.raises(MaxAttemptsExceededError):
        released.get(timeout=30)
    assert plain.get(timeout=30) == "5"
    assert values.get(timeout=30) == ["y", "y"]
    assert [lab.attempts(key) for key in (done_key, failed_key, released_key)] == [[1, 2, 3]] * 3
    assert lab.attempts(plain_key) == [1, 2]
    assert all(run["current"] for run in lab.written(done_key, "runs"))
    assert len(lab.wait_for(failed_key, "failed")) == 1
    assert wait_until(lambda: lab.bus.failed.find(failed.id)).attempts == 3
    finished = batch.wait(timeout=30)
    assert (finished.total_jobs, finished.failed_jobs, finished.pending_jobs) == (4, 1, 0)
    assert lab.wait_for(note_key, "notes") == [[repr(finished), "'finally'"]]


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent", "eventlet"])
def test_a_pool(make_lab: MakeLab, pool: str) -> None:
    if pool in {"gevent", "eventlet"} and find_spec(pool) is None:
        pytest.skip(f"{pool} is not installed")
    lab = make_lab()
    with lab.worker(pool=pool, concurrency=1 if pool == "solo" else 4) as worker:
        check_the_life_of_jobs(lab)
        slow, slow_key = lab.send("timeout", "wait:30", "return:done")
        assert slow.get(timeout=25) == "done"
        assert lab.attempts(slow_key) == [1, 2]
        failed, failed_key = lab.send("timeout_fails", "wait:30")
        with pytest.raises(JobTimedOutError, match="timeout of 1 seconds"):
            failed.get(timeout=25)
        assert lab.attempts(failed_key) == [1]
        assert "Timeouts are not enforced" not in worker.log_text()


def test_a_pool_that_cannot_enforce_timeouts_says_which_jobs_declare_one(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.worker(pool="custom", env={"CELERY_CUSTOM_WORKER_POOL": "tests.support.own_pool:OwnPool"}) as worker:
        assert lab.send("tries3", "raise:x", "return:done")[0].get(timeout=30) == "done"
        (warning,) = [line for line in worker.log_text().splitlines() if "Timeouts are not enforced" in line]
    assert "WARNING" in warning
    assert "by the own_pool pool" in warning
    assert "for timeout, timeout_fails" in warning
    assert "Start the worker with -P prefork, threads, solo, gevent or eventlet" in warning


def test_a_job_that_swallows_its_timeout_is_ended_and_tried_again(make_lab: MakeLab) -> None:
    """A hard limit stands behind the timeout. Its process is killed, and the next attempt starts."""
    lab = make_lab()
    with lab.worker(env={"JOBS_BACKSTOP": "1"}):
        stubborn, key = lab.send("timeout", "stubborn:60", "return:done")
        gone, gone_key = lab.send("timeout", "stubborn:60")
        failed, failed_key = lab.send("timeout_fails", "stubborn:60")
        assert stubborn.get(timeout=40) == "done"
        assert lab.attempts(key) == [1, 2]
        with pytest.raises(TimeLimitExceeded):
            failed.get(timeout=40)
        assert len(lab.wait_for(failed_key, "failed")) == 1
        with pytest.raises(MaxAttemptsExceededError):
            gone.get(timeout=60)
        assert lab.attempts(gone_key) == [1, 2]
        assert lab.attempts(failed_key) == [1]
        assert len(lab.wait_for(gone_key, "failed")) == 1


@pytest.mark.rabbitmq
@pytest.mark.matrix
def test_rabbitmq(make_lab: MakeLab) -> None:
    lab = make_lab(broker="rabbitmq")
    with lab.worker():
        check_the_life_of_jobs(lab)
        result, key = lab.send("tries3", "die", "return:done", priority=3)
        assert result.get(timeout=30) == "done"
        assert lab.attempts(key) == [1, 2]
        result = lab.app.tasks["echo"].apply_async((uuid(), {1}), serializer="pickle", compression="zlib")
        assert result.get(timeout=30) == "{1}"


@pytest.mark.rabbitmq
def test_quorum_queues(make_lab: MakeLab) -> None:
    lab = make_lab(broker="rabbitmq", task_default_queue_type="quorum", worker_detect_quorum_queues=True)
    with lab.worker():
        result, key = lab.send("tries3", "die")
        with pytest.raises(MaxAttemptsExceededError):
            result.get(timeout=40)
        assert lab.attempts(key) == [1, 2, 3]


@pytest.mark.parametrize(
    "store",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
)
def test_a_store_in_sql(make_lab: MakeLab, store: str) -> None:
    lab = make_lab(store=store)
    store_of(lab.app).migrate()  # type: ignore[attr-defined]  # the tables of SQL stores alone
    with lab.worker():
        check_the_life_of_jobs(lab)


def test_the_options_of_a_worker_are_defaults_for_jobs_that_declare_nothing(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.worker("--tries", "2", "--backoff", "0.3,5", "--timeout", "1"):
        result, key = lab.send("plain", "raise:x")
        with pytest.raises(OSError, match="x"):
            result.get(timeout=30)
        first, second = (run["at"] for run in lab.written(key, "runs"))
        assert second - first >= 0.3
        own, own_key = lab.send("tries3", "raise:x")
        slow, slow_key = lab.send("bare", "wait:20", "return:done")
        assert slow.get(timeout=30) == "done"
        assert lab.attempts(slow_key) == [1, 2]
        wait_until(lambda: own.state == "FAILURE")
        assert len(lab.attempts(own_key)) == 3
        assert wait_until(lambda: lab.bus.failed.find(result.id)).attempts == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [("--tries", "-1"), ("--tries", "x"), ("--backoff", "1,x"), ("--backoff", "-1"), ("--timeout", "0")],
)
def test_a_wrong_option_is_refused_by_name(make_lab: MakeLab, option: str, value: str) -> None:
    with pytest.raises(ProcessFailedError, match=option), make_lab().worker(option, value):
        pytest.fail("it started")


def test_a_wrong_setting_keeps_the_worker_from_starting(make_lab: MakeLab) -> None:
    lab = make_lab()
    lab.conf["laravel_tries"] = "many"
    with pytest.raises(ProcessFailedError, match="laravel_tries"), lab.worker():
        pytest.fail("it started")
