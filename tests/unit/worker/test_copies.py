"""Copies of a message whose attempt runs elsewhere: they are put back, and change nothing."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.trace import build_tracer
from celery.exceptions import Reject
from celery.worker import state

from celery_laravel.attempt import leases
from celery_laravel.message.header import Header, read_header
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import StartStatus
from celery_laravel.worker.starting import KEEP_OPEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

JOB_ID = "a-job-and-its-copies"  # of no other test: results in memory are the process's, not the app's


@pytest.fixture(autouse=True)
def nothing_active(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(leases, "_keepers", {})  # one of the test's own
    yield
    app.backend.forget(JOB_ID)
    state.reset_state()
    assert leases._keeper()._held == {}, "every lease is let go of when its attempt has ended"


@pytest.fixture
def queue(app: Celery) -> Any:
    """What has been published, as messages."""
    channel = app.connection_for_write().channel()

    def messages() -> list[Any]:
        found = []
        while (message := channel.basic_get(app.conf.task_default_queue)) is not None:
            message.ack()
            found.append(message)
        return found

    messages()
    return messages


def begin(app: Celery, *, owner: str = "another/1", lease: float = 60) -> StartStatus:
    """An attempt of the job that another worker starts."""
    given: dict[str, Any] = {"turn": 0, "attempts": 0, "exceptions": 0, "keep": KEEP_OPEN}
    return store_of(app).attempts.begin(JOB_ID, owner=owner, lease=timedelta(seconds=lease), **given).status


def run(app: Celery, task: Any, *, header: Header | None = None, **request: Any) -> Any:
    """Run a message of the job through Celery's tracer, as a worker does."""
    if header is not None:
        request["laravel"] = header.encode()
        request["headers"] = {"laravel": header.encode()}
    details: dict[str, Any] = {"id": JOB_ID, "task": task.name, "is_eager": False, "delivery_info": {}, **request}
    trace = build_tracer(task.name, app.tasks[task.name], app=app, hostname="here")
    return trace(JOB_ID, (), {}, details)


def due_at(message: Any) -> float:
    """When a message is due, in seconds since the epoch."""
    return datetime.fromisoformat(message.headers["eta"]).timestamp()


def test_a_copy_does_not_run_and_keeps_its_turn_and_its_attempts(app: Celery, queue: Any) -> None:
    ran: list[int] = []

    @app.task(name="job", tries=1)
    def job() -> None:
        ran.append(1)

    begin(app)
    run(app, job)

    (copy,) = queue()
    header = read_header(copy.headers)
    assert (header.turn, header.attempts, header.exceptions, header.waits) == (0, 0, 0, 1)
    assert ran == []
    assert begin(app, owner="a third/1") is StartStatus.RUNNING


def test_a_copy_is_told_of_once(app: Celery, queue: Any, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="job", tries=1)
    def job() -> None:
        """Never run here."""

    begin(app)
    with caplog.at_level(logging.INFO):
        for waits in range(3):
            run(app, job, header=Header(waits=waits))

    assert caplog.text.count("is not started: a copy of it runs") == 1


@pytest.mark.parametrize(
    ("waits", "lease", "delay"), [(0, 60, 5), (1, 60, 10), (2, 60, 20), (900, 60, 20), (0, 2, 2.5)]
)
def test_a_copy_looks_again_more_and_more_seldom_but_when_the_lease_ends(
    app: Celery, queue: Any, waits: int, lease: float, delay: float
) -> None:
    @app.task(name="job", tries=1)
    def job() -> None:
        """Never run here."""

    before = time.time()
    begin(app, lease=lease)
    run(app, job, header=Header(waits=waits))
    after = time.time()

    (copy,) = queue()
    assert min(before + delay, before + lease) <= due_at(copy) <= after + delay


def test_a_copy_starts_when_the_lease_has_ended_and_its_next_message_waits_for_nothing(app: Celery, queue: Any) -> None:
    attempts: list[int] = []

    @app.task(name="job", tries=5, bind=True)
    def job(self: Any) -> None:
        attempts.append(self.attempts)
        self.release()

    begin(app, lease=0)
    run(app, job, header=Header(waits=3))

    (following,) = queue()
    assert attempts == [2]
    assert read_header(following.headers).waits == 0


def test_a_plain_member_that_came_again_and_waited_still_counts_its_starts(app: Celery, queue: Any) -> None:
    ran: list[int] = []

    @app.task(name="job")
    def job() -> None:
        ran.append(1)

    member = Header(batch_id="b", index=0)
    begin(app)
    run(app, job, header=member, delivery_info={"redelivered": True})
    (copy,) = queue()
    run(app, job, header=read_header(copy.headers))

    assert ran == []
    assert read_header(queue()[0].headers).waits == 2


def test_a_running_job_is_held_until_its_turn_has_ended(app: Celery) -> None:
    seen: list[Any] = []

    @app.task(name="job", tries=1)
    def job() -> None:
        seen.append((begin(app), [job_id for _, job_id in leases._keeper()._held]))

    run(app, job)

    assert seen == [(StartStatus.RUNNING, [JOB_ID])]
    assert begin(app) is StartStatus.OVER


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), Reject("later", requeue=True)])
def test_a_start_that_comes_to_nothing_leaves_no_lease(app: Celery, error: BaseException) -> None:
    @app.task(name="job", tries=3)
    def job() -> None:
        raise error

    with suppress(SystemExit, KeyboardInterrupt):
        run(app, job)

    assert begin(app) is StartStatus.STARTED


def test_a_job_that_is_put_back_leaves_no_lease_to_its_next_message(app: Celery, queue: Any) -> None:
    @app.task(name="job", tries=3, backoff=0)
    def job() -> None:
        raise OSError

    run(app, job)
    (message,) = queue()
    run(app, job, header=read_header(message.headers))

    (following,) = queue()
    assert read_header(following.headers).attempts == 2


def test_a_plain_task_takes_no_lease(app: Celery, no_store: None) -> None:
    seen: list[Any] = []

    @app.task(name="plain")
    def plain() -> None:
        seen.append(dict(leases._keeper()._held))

    run(app, plain)

    assert seen == [{}]


@pytest.mark.parametrize("is_copy", [True, False])
def test_what_is_stored_of_a_copy_is_nothing(app: Celery, queue: Any, is_copy: bool) -> None:
    """Celery itself would store that it has started, over the result of the job."""
    seen: list[str] = []

    @app.task(name="job", tries=1, track_started=True)
    def job() -> None:
        seen.append(app.backend.get_task_meta(JOB_ID)["status"])

    if is_copy:
        begin(app)
        app.backend.store_result(JOB_ID, OSError("failed"), "FAILURE")
    run(app, job)

    assert seen == ([] if is_copy else ["STARTED"])
    assert app.backend.get_task_meta(JOB_ID)["status"] == ("FAILURE" if is_copy else "SUCCESS")


@pytest.mark.parametrize("options", [{"ignore_result": True}, {"track_started": False}])
def test_that_a_job_has_started_is_stored_only_where_that_is_asked_for(app: Celery, options: dict[str, Any]) -> None:
    seen: list[str] = []

    @app.task(name="job", tries=1, **{"track_started": True, **options})
    def job() -> None:
        seen.append(app.backend.get_task_meta(JOB_ID)["status"])

    run(app, job)

    assert seen == ["PENDING"]


def test_a_job_runs_though_it_cannot_be_stored_that_it_has_started(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="job", tries=1, track_started=True)
    def job() -> None:
        """Run."""

    store_result = app.backend.store_result

    def fail(task_id: str, result: Any, state: str, **options: Any) -> Any:
        if state == "STARTED":
            raise OSError("gone")
        return store_result(task_id, result, state, **options)

    monkeypatch.setattr(job.backend, "store_result", fail)
    run(app, job)

    assert app.backend.get_task_meta(JOB_ID)["status"] == "SUCCESS"
    assert "could not be stored that it has started" in caplog.text


def test_holding_a_short_attempt_takes_no_call_of_the_store(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    @app.task(name="job", tries=1)
    def job() -> None:
        """Run."""

    store = store_of(app)
    for part, name in ((store.attempts, "begin"), (store.attempts, "renew"), (store.locks, "renew"), (store, "settle")):
        called = getattr(part, name)

        def call(*args: Any, called: Any = called, name: str = name, **options: Any) -> Any:
            calls.append(name)
            return called(*args, **options)

        monkeypatch.setattr(part, name, call)
    run(app, job)

    assert calls == ["begin", "settle"]
