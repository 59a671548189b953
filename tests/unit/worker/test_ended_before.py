"""Jobs whose worker died after their result was stored: what comes again is not failed, nor dropped unsettled."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.trace import build_tracer
from celery.utils import uuid

from celery_laravel import Bus, install
from celery_laravel.attempt.ownership import new_owner
from celery_laravel.message.header import Header, read_header
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import LockRequest, StartStatus
from celery_laravel.worker import ended_before, results
from celery_laravel.worker.redelivery import tell_redelivery
from celery_laravel.worker.starting import KEEP_OPEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

pytestmark = pytest.mark.matrix


class Job:
    """A job that was started before, by a worker that died."""

    def __init__(self, app: Celery, starts: int = 1, **options: Any) -> None:
        self.app, self.id = app, uuid()
        self.ran: list[int] = []
        self.failed: list[BaseException] = []
        given = {"tries": 1, "failed": lambda job, error: self.failed.append(error), **options}

        @app.task(name="job", bind=True, **{key: value for key, value in given.items() if value is not None})
        def job(job: Any) -> str:
            self.ran.append(job.attempts)
            return "again"

        self.task = job
        for _ in range(starts):
            assert self.begin() is StartStatus.STARTED

    def begin(self) -> StartStatus:
        given: dict[str, Any] = {"turn": 0, "attempts": 0, "exceptions": 0, "keep": KEEP_OPEN}
        attempts = store_of(self.app).attempts
        return attempts.begin(self.id, owner=new_owner(self.id), lease=timedelta(0), **given).status

    def store_success(self, *, age: float = 0.0) -> None:
        backend = self.app.backend
        backend.store_result(self.id, "first", "SUCCESS")
        if age:
            meta = backend.get_task_meta(self.id)
            done = datetime.fromtimestamp(time.time() - age, timezone.utc).isoformat()
            backend.set(backend.get_key_for_task(self.id), backend.encode({**meta, "date_done": done}))

    def run(self, header: Header | None = None, **request: Any) -> Any:
        """What a worker does with the message that comes again."""
        details: dict[str, Any] = {"id": self.id, "task": "job", "is_eager": False, "delivery_info": {}, **request}
        if header is not None:
            details["laravel"] = header.encode()
            details["headers"] = {"laravel": header.encode()}
        tell_redelivery(self.app, details)
        return build_tracer("job", self.app.tasks["job"], app=self.app, hostname="here")(self.id, (), {}, details)

    @property
    def result(self) -> tuple[str, Any]:
        meta = self.app.backend.get_task_meta(self.id, cache=False)
        return meta["status"], meta["result"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs whose results were asked for."""
    asked: list[str] = []

    def find(task: Any, job_id: str, **terms: Any) -> Any:
        asked.append(job_id)
        return results.find_success(task, job_id, **terms)

    monkeypatch.setattr(ended_before, "find_success", find)
    return asked


def queued(app: Celery) -> list[Any]:
    """What has been published, as messages."""
    channel, found = app.connection_for_write().channel(), []
    while (message := channel.basic_get(app.conf.task_default_queue)) is not None:
        message.ack()
        found.append(message)
    return found


def test_it_has_succeeded(app: Celery) -> None:
    job = Job(app, track_started=True)
    job.store_success()
    job.run()
    assert (job.ran, job.failed, job.result) == ([], [], ("SUCCESS", "first"))
    assert Bus(app).failed.find(job.id) is None
    assert job.begin() is StartStatus.OVER


def test_so_it_has_when_its_deadline_is_over(app: Celery) -> None:
    job = Job(app, tries=None, retry_until=timedelta(hours=1))
    job.store_success()
    job.run(Header(deadline=time.time() - 1))
    assert (job.ran, job.failed, job.result) == ([], [], ("SUCCESS", "first"))


def test_so_it_has_when_it_declares_no_limit_and_was_started_three_times(app: Celery) -> None:
    job = Job(app, 3, tries=None)
    job.store_success()
    job.run(Header(is_counted=True))
    assert (job.ran, job.failed, job.result) == ([], [], ("SUCCESS", "first"))


def test_so_has_a_step_that_declares_no_limit_and_whose_chain_has_gone_on(app: Celery) -> None:
    """It is not caught beside that, also where no result is kept."""
    job = Job(app, 3, tries=None, ignore_result=True)
    following = app.signature("job").set(task_id=uuid())
    start: dict[str, Any] = {"turn": 0, "attempts": 0, "exceptions": 0, "keep": KEEP_OPEN, "lease": timedelta(0)}
    store_of(app).attempts.begin(following.options["task_id"], owner="next/1", **start)
    job.run(Header(chain={"id": "chain", "catch": [app.signature("job")]}, is_counted=True), chain=[following])
    assert (job.ran, job.failed, queued(app)) == ([], [], [])


def test_its_batch_counts_it_as_succeeded(app: Celery) -> None:
    job = Job(app)
    batch = Bus(app).batch([job.task.si().set(task_id=job.id)]).dispatch()
    (message,) = queued(app)
    job.store_success()
    job.run(read_header(message.headers))
    fresh = batch.fresh()
    assert (fresh.pending_jobs, fresh.failed_jobs, fresh.finished) == (0, 0, True)


def test_its_unique_lock_is_freed(app: Celery) -> None:
    job = Job(app, unique=True)
    key = "a-key"
    store_of(app).locks.acquire(LockRequest(key, job.id, "unique"))
    job.store_success()
    job.run(Header(unique=key))
    assert job.ran == []
    assert store_of(app).locks.acquire(LockRequest(key, "another", "unique")).acquired


def test_while_it_has_attempts_left_it_runs_once_more(app: Celery, asked: list[str]) -> None:
    job = Job(app, tries=2)
    job.store_success()
    job.run()
    assert (job.ran, asked) == ([2], [])


def test_one_that_used_up_its_attempts_by_being_put_back_is_failed_unasked(app: Celery, asked: list[str]) -> None:
    job = Job(app, 0)
    job.store_success()
    job.run(Header(turn=1, attempts=1))
    assert (len(job.failed), asked) == (1, [])


def test_one_of_which_nothing_is_stored_is_failed(app: Celery, asked: list[str]) -> None:
    job = Job(app)
    job.run()
    assert (job.ran, len(job.failed), asked) == ([], 1, [job.id])


def test_the_success_of_an_older_job_of_the_same_id_is_not_its_own(app: Celery) -> None:
    app.conf.broker_transport_options = {"visibility_timeout": 100}
    job = Job(app)
    job.store_success(age=800)
    job.run()
    assert (job.ran, len(job.failed)) == ([], 1)


@pytest.mark.parametrize("options", [{"ignore_result": True}, {"unique": "latest"}])
def test_where_its_result_tells_nothing_it_is_failed(app: Celery, asked: list[str], options: dict[str, Any]) -> None:
    job = Job(app, **options)
    job.store_success()
    job.run()
    assert (len(job.failed), asked) == (1, [])


def test_a_chords_part_is_failed_since_it_may_not_have_been_counted(app: Celery, asked: list[str]) -> None:
    job = Job(app)
    job.store_success()
    job.run(chord=app.signature("job"))
    assert (len(job.failed), asked) == (1, [])


def test_without_a_result_backend_it_is_failed(
    make_app: Callable[..., Celery], caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    app.conf.result_backend = "disabled://"
    job = Job(install(app))
    job.run()
    assert len(job.failed) == 1
    assert "is not known whether a result was stored" not in caplog.text


class Away:
    """A result backend that does not answer."""

    def __init__(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(app.backend, "_get_task_meta_for", self._fail)

    def _fail(self, job_id: str) -> Any:
        raise ConnectionError("away")


def test_while_the_result_backend_is_away_it_waits(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same turn, with nothing stored over its result, and no lease that would keep its next start waiting."""
    job = Job(app, track_started=True)
    job.store_success()
    with monkeypatch.context() as meanwhile:
        Away(app, meanwhile)
        before = time.time()
        job.run(Header())
    (message,) = queued(app)
    header = read_header(message.headers)
    assert (header.turn, header.attempts, header.waits) == (0, 0, 1)
    assert datetime.fromisoformat(message.headers["eta"]).timestamp() >= before + 5
    assert (job.ran, job.failed, job.result) == ([], [], ("SUCCESS", "first"))

    job.run(header)
    assert (job.ran, job.failed, job.result) == ([], [], ("SUCCESS", "first"))
    assert job.begin() is StartStatus.OVER


def test_it_does_not_wait_for_ever(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(app)
    Away(app, monkeypatch)
    monkeypatch.setattr(app.backend, "mark_as_failure", lambda *_, **__: None)
    job.run(Header(waits=ended_before.MOST_WAITS))
    assert (len(job.failed), queued(app)) == (1, [])


CAME_AGAIN: dict[str, Any] = {"delivery_info": {"redelivered": True}}


@pytest.fixture
def deduplicating(app: Celery) -> Celery:
    """An app with ``worker_deduplicate_successful_tasks``."""
    app.conf.worker_deduplicate_successful_tasks = True
    app.conf.task_acks_late = True
    return app


@pytest.mark.parametrize("starts", [0, 1])
@pytest.mark.parametrize("tries", [3, None])
def test_one_that_celery_would_drop_is_settled(deduplicating: Celery, starts: int, tries: int | None) -> None:
    """As the dropping of it would leave its batch waiting. Whether it declares limits does not matter."""
    app = deduplicating
    job = Job(app, starts, tries=tries)
    batch = Bus(app).batch([job.task.si().set(task_id=job.id)]).dispatch()
    (message,) = queued(app)
    job.store_success()
    job.run(read_header(message.headers), **CAME_AGAIN)
    assert (job.ran, job.result) == ([], ("SUCCESS", "first"))
    assert (batch.fresh().pending_jobs, batch.fresh().failed_jobs) == (0, 0)


def test_one_that_came_again_and_had_not_succeeded_runs_and_sees_that_it_came_again(deduplicating: Celery) -> None:
    seen: list[Any] = []

    @deduplicating.task(name="job", tries=3, bind=True)
    def job(self: Any) -> None:
        seen.append(self.request.delivery_info)

    request = {"id": uuid(), "task": "job", "is_eager": False, "delivery_info": {"redelivered": True, "priority": 3}}
    tell_redelivery(deduplicating, request)
    build_tracer("job", job, app=deduplicating, hostname="here")(request["id"], (), {}, request)
    assert seen == [{"redelivered": True, "priority": 3}]


def test_a_backend_that_is_away_keeps_no_job_from_running_that_has_attempts_left(
    deduplicating: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(deduplicating, tries=3)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(ended_before, "find_success", lambda *_, **__: 1 / 0)
        job.run(**CAME_AGAIN)
    assert job.ran == [2]


def test_without_that_setting_a_message_goes_to_its_child_as_it_came(app: Celery) -> None:
    request = {"delivery_info": {"redelivered": True}}
    tell_redelivery(app, request)
    assert request == {"delivery_info": {"redelivered": True}}
