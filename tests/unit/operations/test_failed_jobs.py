"""Retrying failed jobs: who sends them, and what becomes of the record."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.trace import build_tracer
from celery.exceptions import NotRegistered
from celery.states import FAILURE, RETRY, STARTED
from celery.utils import uuid

from celery_laravel import Bus, StoreUnavailableError, install, signals
from celery_laravel.dispatch import failed_jobs
from celery_laravel.dispatch.failed_jobs import records_of, retry_failed_job
from celery_laravel.job.undeliverable import settle_undeliverable
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.memory import MemoryStore
from celery_laravel.stores.records import FailedJob, MemberEnd, MemberState

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from celery_laravel import Batch
    from tests.support.clock import Clock


@pytest.fixture
def breaks(app: Celery) -> Any:
    @app.task(name="breaks", tries=1)
    def breaks(number: int) -> None:
        raise ValueError(number)

    return app.tasks["breaks"]


@pytest.fixture
def failed_job(app: Celery, breaks: Any) -> FailedJob:
    """The record of a job that failed, made in a worker's way."""
    task = breaks
    request = {"id": uuid(), "args": (7,), "kwargs": {}, "hostname": "here", "delivery_info": {"routing_key": app.main}}
    build_tracer(task.name, task, app=app)(request["id"], (7,), {}, request)
    record: FailedJob = Bus(app).failed.all()[0]
    return record


def failed_batch(app: Celery) -> Batch:
    """A batch whose first job has failed, with the step behind it; both are one chain."""
    batch = Bus(app).batch([[app.tasks["breaks"].si(7), app.tasks["breaks"].si(8)]]).allow_failures().dispatch()
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.main)
        message = queue.get(block=False)
        while message.headers["task"] != "breaks":  # what was sent of an earlier batch, where somebody listens
            message = queue.get(block=False)
    message.ack()
    settle_undeliverable(app, message, NotRegistered("as far as this worker knows"))
    found: Batch | None = batch.fresh()
    assert found is not None
    assert (found.failed_jobs, found.skipped_jobs) == (1, 1)
    return found


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
    assert Bus(app).failed.all()[0].claimed_until is None


def test_a_job_is_seen_as_failed_until_it_is_sent(
    app: Celery, failed_job: FailedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def look(*args: Any, **options: Any) -> None:
        seen.append(Bus(app).failed.all())
        assert Bus(app).failed.retry(failed_job.id) == 0, "somebody else does so"

    monkeypatch.setattr(type(app.tasks["breaks"]), "apply_async", look)
    assert Bus(app).failed.retry(failed_job.id) == 1
    assert seen == [[failed_job]]
    assert 20 < (seen[0][0].claimed_until - datetime.now(timezone.utc)).total_seconds() <= 30
    assert Bus(app).failed.count() == 0


def test_a_job_that_cannot_be_sent_keeps_its_record(
    app: Celery, failed_job: FailedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise ConnectionError("no broker")

    monkeypatch.setattr(type(app.tasks["breaks"]), "apply_async", refuse)
    with pytest.raises(ConnectionError, match="no broker"):
        Bus(app).failed.retry("all")
    assert Bus(app).failed.find(failed_job.id) == failed_job
    monkeypatch.undo()
    assert Bus(app).failed.retry("all") == 1, "the claim was given up"


def test_why_a_job_was_not_sent_is_told_also_when_the_store_has_gone_with_the_broker(
    app: Celery, failed_job: FailedJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise ConnectionError("no broker")

    def be_away(*args: Any, **options: Any) -> None:
        raise StoreUnavailableError("memory://", "no store")

    monkeypatch.setattr(type(app.tasks["breaks"]), "apply_async", refuse)
    monkeypatch.setattr(runtime_of(app).failed_jobs, "release", be_away)
    with pytest.raises(ConnectionError, match="no broker"):
        Bus(app).failed.retry(failed_job.id)
    assert "could not be given up" in caplog.text
    assert Bus(app).failed.find(failed_job.id) == failed_job


def test_a_job_that_was_sent_counts_as_sent_though_its_record_cannot_be_removed(
    app: Celery, failed_job: FailedJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def be_away(*args: Any, **options: Any) -> None:
        raise StoreUnavailableError("memory://", "no store")

    monkeypatch.setattr(runtime_of(app).failed_jobs, "forget", be_away)
    assert Bus(app).failed.retry(failed_job.id) == 1
    assert waiting(app) == 1
    assert "its record could not be removed" in caplog.text
    assert Bus(app).failed.find(failed_job.id) == failed_job


@pytest.mark.parametrize("has_been_sent", [False, True])
def test_a_retry_that_was_broken_off_leaves_a_job_that_can_be_retried_half_a_minute_later(
    app: Celery, time: Clock, failed_job: FailedJob, monkeypatch: pytest.MonkeyPatch, has_been_sent: bool
) -> None:
    """Nothing that runs after the break runs here either: as when the process is killed."""
    task, records = app.tasks["breaks"], runtime_of(app).failed_jobs
    send = task.apply_async

    def break_off(_: Any, *args: Any, **options: Any) -> None:
        if has_been_sent:
            send(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(type(task), "apply_async", break_off)
        broken.setattr(records, "release", lambda *args, **options: None)
        with pytest.raises(KeyboardInterrupt):
            Bus(app).failed.retry(failed_job.id)
    assert Bus(app).failed.retry(failed_job.id) == 0
    time.now += 29
    assert Bus(app).failed.retry(failed_job.id) == 0
    time.now += 1
    assert Bus(app).failed.retry(failed_job.id) == 1
    assert waiting(app) == 1 + has_been_sent
    assert Bus(app).failed.count() == 0


@pytest.mark.usefixtures("breaks", "time")
def test_a_batch_finds_the_jobs_whose_retry_was_broken_off(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are pending, and none of its failed jobs any more; what another batch has to do with is left alone."""
    batch, other = (failed_batch(app) for _ in range(2))

    def refuse(*args: Any, **options: Any) -> None:
        raise ConnectionError("no broker")

    with monkeypatch.context() as away:
        away.setattr(type(app.tasks["breaks"]), "apply_async", refuse)
        for one in (batch, other):
            with pytest.raises(ConnectionError):
                one.retry()
    sent = waiting(app)
    found = batch.fresh()
    assert found is not None
    assert (found.failed_jobs, found.skipped_jobs, found.pending_jobs, found.finished) == (0, 0, 2, False)
    assert found.retry().pending_jobs == 2
    assert waiting(app) == sent + 1
    assert [record.batch_id for record in Bus(app).failed.all()] == [other.id]
    assert found.retry().pending_jobs == 2
    assert waiting(app) == sent + 1, "it was sent, and is not again"


@pytest.mark.usefixtures("breaks")
def test_a_batch_without_pending_jobs_leaves_alone_what_was_sent_and_has_succeeded(
    app: Celery, time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = failed_batch(app)
    [record] = Bus(app).failed.all()
    with monkeypatch.context() as broken:
        broken.setattr(runtime_of(app).failed_jobs, "forget", lambda *args, **options: False)
        assert Bus(app).failed.retry(record.id) == 1
    sent = waiting(app)
    for index in range(2):
        store_of(app).batches.end_member(MemberEnd(batch.id, index, record.id, MemberState.SUCCEEDED))
    time.now += 60
    assert batch.retry().pending_jobs == 0
    assert waiting(app) == sent


def test_where_no_records_are_kept_nothing_is_retried(make_app: Any) -> None:
    app = install(make_app(laravel_failed_store="null://"))
    job = FailedJob("id", "default", "celery", "breaks", "", "", "", "", datetime.now(timezone.utc), 1, "batch", {})
    records = runtime_of(app).failed_jobs
    assert records.record(job)
    assert records.claim("id", owner="first", lease=timedelta(seconds=30)) is None
    assert not records.release("id", owner="first")
    assert records.interrupted("batch") == []
    assert Bus(app).failed.retry("id") == Bus(app).failed.retry("all") == 0


def test_a_store_of_failed_jobs_alone_is_closed_with_the_apps_own(
    make_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = install(make_app(laravel_store="memory://", laravel_failed_store="memory://failed"))
    closed: list[str] = []
    monkeypatch.setattr(MemoryStore, "close", lambda store: closed.append(store.url))
    runtime_of(app).store.ping()
    assert runtime_of(app).failed_jobs.count() == 0
    runtime_of(app).forget()
    assert closed == ["memory://", "memory://failed"]


def pause_with(
    monkeypatch: pytest.MonkeyPatch,
    sleep: Callable[[float], Any],
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Let the module under test pause in this way, and by this clock; other threads keep theirs."""
    monkeypatch.setattr(failed_jobs, "time", SimpleNamespace(sleep=sleep, monotonic=monotonic))


def test_a_record_that_is_not_there_yet_is_waited_for(
    app: Celery, failed_job: FailedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker counts a batch's member as failed a moment before it keeps its record."""
    records = runtime_of(app).failed_jobs
    records.forget(failed_job.id)
    pause_with(monkeypatch, lambda seconds: records.record(failed_job))
    assert records_of(app, [failed_job.id]) == [failed_job]


def test_a_record_that_was_forgotten_is_not_waited_for_long(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    pause_with(monkeypatch, waited.append)
    assert not records_of(app, ["forgotten"])
    assert sum(waited) == pytest.approx(2)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, in which a clock goes on and nothing else does."""
    slept: list[float] = []
    pause_with(monkeypatch, slept.append, monotonic=lambda: sum(slept))
    return slept


def aged(app: Celery, job: FailedJob, *, by: float) -> FailedJob:
    """The record as it would be if the job had failed so many seconds earlier; its result is not stored yet."""
    app.backend.store_result(job.id, None, STARTED)
    return replace(job, failed_at=datetime.now(timezone.utc) - timedelta(seconds=by))


def test_the_result_of_a_failure_that_is_a_moment_old_is_waited_for(
    app: Celery, failed_job: FailedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = aged(app, failed_job, by=0)
    pauses: list[float] = []

    def store_in_the_meantime(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 3:
            app.backend.store_result(job.id, ValueError(7), FAILURE)

    pause_with(monkeypatch, store_in_the_meantime)
    assert retry_failed_job(app, job)
    assert len(pauses) == 3
    assert app.AsyncResult(job.id).state == RETRY


@pytest.mark.parametrize(("age", "bounds"), [(0, (1.5, 2.1)), (1.5, (0, 0.6)), (60, (0, 0)), (-60, (1.5, 2.1))])
def test_a_result_that_does_not_come_is_waited_for_for_two_seconds_after_the_failure(
    app: Celery, failed_job: FailedJob, slept: list[float], age: float, bounds: tuple[float, float]
) -> None:
    """Whatever the clock of the worker said."""
    assert retry_failed_job(app, aged(app, failed_job, by=age))
    assert bounds[0] <= sum(slept) <= bounds[1]


def test_a_result_that_is_ignored_is_not_waited_for(app: Celery, failed_job: FailedJob, slept: list[float]) -> None:
    app.tasks["breaks"].ignore_result = True
    signature = failed_jobs.signature_of(app, failed_job.payload)
    signature.options.pop("ignore_result", None)
    failed_jobs._await_failure(app, aged(app, failed_job, by=0), signature)
    failed_jobs._await_failure(app, aged(app, failed_job, by=0), signature.set(ignore_result=True))
    assert slept == []


def test_a_result_backend_that_does_not_answer_keeps_nobody_from_retrying(
    app: Celery, failed_job: FailedJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(app.backend, "get_state", refuse)
    assert retry_failed_job(app, failed_job)
    assert "it is retried all the same" in caplog.text


def test_a_job_that_a_receiver_of_its_failure_retries_is_awaited_anew(app: Celery, slept: list[float]) -> None:
    @app.task(name="breaks", tries=1)
    def breaks() -> None:
        raise ValueError

    def retry(task_id: str, **_: Any) -> None:
        assert Bus(app).failed.retry(task_id) == 1

    signals.job_failed.connect(retry)
    try:
        request = {"id": uuid(), "args": (), "kwargs": {}, "delivery_info": {"routing_key": app.main}}
        build_tracer("breaks", app.tasks["breaks"], app=app)(request["id"], (), {}, request)
    finally:
        signals.job_failed.disconnect(retry)
    assert app.AsyncResult(request["id"]).state == RETRY
    assert (waiting(app), Bus(app).failed.count(), slept) == (1, 0, [])
