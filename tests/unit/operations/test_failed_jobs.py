"""Retrying failed jobs: who sends them, and what becomes of the record."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel import Bus
from celery_laravel.dispatch.failed_jobs import records_of, retry_failed_job
from celery_laravel.runtime import runtime_of

if TYPE_CHECKING:
    from celery import Celery

    from celery_laravel.stores.records import FailedJob


@pytest.fixture
def failed_job(app: Celery) -> FailedJob:
    """The record of a job that failed, made in a worker's way."""
    from celery.app.trace import build_tracer
    from celery.utils import uuid

    @app.task(name="breaks", tries=1)
    def breaks(number: int) -> None:
        raise ValueError(number)

    task = app.tasks["breaks"]
    request = {"id": uuid(), "args": (7,), "kwargs": {}, "hostname": "here", "delivery_info": {"routing_key": app.main}}
    build_tracer(task.name, task, app=app)(request["id"], (7,), {}, request)
    record: FailedJob = Bus(app).failed.all()[0]
    return record


def waiting(app: Celery) -> int:
    with app.connection_for_read() as connection:
        return int(connection.SimpleQueue(app.main).qsize())


def test_of_two_who_retry_a_job_one_sends_it(app: Celery, failed_job: FailedJob) -> None:
    assert [retry_failed_job(app, failed_job) for _ in range(2)] == [True, False]
    assert waiting(app) == 1
    assert Bus(app).failed.count() == 0


def test_a_job_that_fails_again_while_it_is_being_sent_keeps_its_new_record(
    app: Celery, failed_job: FailedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = runtime_of(app).failed_jobs

    def fail_at_once(*args: Any, **options: Any) -> None:
        assert records.record(failed_job)

    monkeypatch.setattr(type(app.tasks["breaks"]), "apply_async", fail_at_once)
    assert Bus(app).failed.retry(failed_job.id) == 1
    assert Bus(app).failed.count() == 1


def test_a_job_that_cannot_be_sent_keeps_its_record(
    app: Celery, failed_job: FailedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise ConnectionError("no broker")

    monkeypatch.setattr(type(app.tasks["breaks"]), "apply_async", refuse)
    with pytest.raises(ConnectionError, match="no broker"):
        Bus(app).failed.retry("all")
    assert Bus(app).failed.find(failed_job.id) == failed_job


def test_a_record_that_is_not_there_yet_is_waited_for(
    app: Celery, failed_job: FailedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker counts a batch's member as failed a moment before it keeps its record."""
    records = runtime_of(app).failed_jobs
    records.forget(failed_job.id)
    monkeypatch.setattr(time, "sleep", lambda seconds: records.record(failed_job))
    assert records_of(app, [failed_job.id]) == [failed_job]


def test_a_record_that_was_forgotten_is_not_waited_for_long(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    assert not records_of(app, ["forgotten"])
    assert sum(waited) == pytest.approx(2)
