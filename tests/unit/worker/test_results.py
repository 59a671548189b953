"""What is stored of a job that is put back, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.trace import build_tracer
from celery.exceptions import Retry
from celery.signals import after_task_publish, task_retry
from celery.states import FAILURE, RETRY, SUCCESS
from celery.utils import uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

pytestmark = pytest.mark.matrix

WAYS: dict[str, Callable[[Any], Any]] = {
    "released": lambda job: job.release(),
    "tried again": lambda job: _raise(OSError("x")),
    "retried": lambda job: job.retry(exc=OSError("x"), countdown=0),
    "retried, without raising": lambda job: _raise(job.retry(exc=OSError("x"), countdown=0, throw=False)),
    "retried with a text": lambda job: job.retry(exc="x", countdown=0),
}


def _raise(error: BaseException) -> None:
    raise error


class Told:
    """What has happened to a job, in order."""

    def __init__(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Any] = []
        self.stored: list[Any] = []
        store = app.backend.store_result

        def note(task_id: str, result: Any, state: str, **more: Any) -> Any:
            self.seen.append(state)
            self.stored.append(SimpleNamespace(result=result, traceback=more.get("traceback")))
            return store(task_id, result, state, **more)

        monkeypatch.setattr(app.backend, "store_result", note)
        self.published = lambda **_: self.seen.append("sent")
        self.retried = lambda **_: self.seen.append("task_retry")


@pytest.fixture
def told(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    told = Told(app, monkeypatch)
    after_task_publish.connect(told.published)
    task_retry.connect(told.retried)
    yield told
    after_task_publish.disconnect(told.published)
    task_retry.disconnect(told.retried)


def run(app: Celery, way: str, **options: Any) -> tuple[Any, str]:
    """Run a job that puts itself back, as a worker does; return what Celery's tracer returned, and the job's id."""
    hooked: list[Any] = []

    class Hooked(app.Task):
        def on_retry(self, exc: Any, *_: Any) -> None:
            hooked.append(exc)

    how = {"max_retries": 3} if way.startswith("retried") else {"tries": 3}

    @app.task(name="job", bind=True, base=Hooked, failed=lambda *_: None, **how, **options)
    def job(self: Any) -> None:
        WAYS[way](self)

    task_id = uuid()
    request = {"id": task_id, "task": "job", "is_eager": False, "delivery_info": {}}
    traced = build_tracer("job", app.tasks["job"], app=app, hostname="here")(task_id, (), {}, request)
    if traced.info.state == RETRY:
        assert len(hooked) == 1
    return traced, task_id


@pytest.mark.parametrize("way", WAYS)
def test_its_state_is_stored_once_and_before_its_message_goes_out(app: Celery, told: Told, way: str) -> None:
    traced, task_id = run(app, way)
    assert told.seen == [RETRY, "sent", "task_retry"]
    assert isinstance(traced.info.retval, Retry)
    assert app.AsyncResult(task_id).state == RETRY
    (stored,) = told.stored
    if way in {"released", "retried with a text"}:
        assert (stored.result, stored.traceback) == (None, None)
    else:
        assert repr(stored.result) == "OSError('x')"
        assert "OSError: x" in stored.traceback


@pytest.mark.parametrize("way", ["released", "retried"])
def test_nothing_is_stored_where_results_are_ignored(app: Celery, told: Told, way: str) -> None:
    run(app, way, ignore_result=True)
    assert told.seen == ["sent", "task_retry"]


@pytest.mark.parametrize("way", ["released", "tried again", "retried"])
def test_a_result_backend_that_fails_keeps_no_job_from_going_back(
    app: Celery, told: Told, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app.backend, "store_result", lambda *_, **__: _raise(ConnectionError("away")))
    traced, _ = run(app, way)
    assert traced.info.state == RETRY
    assert told.seen == ["sent", "task_retry"]
    assert "it could not be stored that it is put back" in caplog.text


@pytest.mark.parametrize("way", ["released", "tried again"])
def test_the_failure_of_a_job_that_cannot_be_put_back_is_stored(
    app: Celery, told: Told, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "send_task", lambda *_, **__: _raise(ConnectionError("no broker")))
    monkeypatch.setattr(app.amqp, "send_task_message", lambda *_, **__: _raise(ConnectionError("no broker")))
    traced, task_id = run(app, way, acks_late=False)
    assert traced.info.state == FAILURE
    assert told.seen == [RETRY, FAILURE]
    assert app.AsyncResult(task_id).state == FAILURE


def test_a_job_without_retries_left_stores_its_failure_alone(app: Celery, told: Told) -> None:
    @app.task(name="job", bind=True, max_retries=0, failed=lambda *_: None)
    def job(self: Any) -> None:
        self.retry(exc=OSError("x"))

    request = {"id": uuid(), "task": "job", "is_eager": False, "delivery_info": {}}
    build_tracer("job", app.tasks["job"], app=app, hostname="here")(request["id"], (), {}, request)
    assert told.seen == [FAILURE]


def test_a_job_that_retries_without_raising_and_goes_on_stores_its_success(app: Celery, told: Told) -> None:
    @app.task(name="job", bind=True, max_retries=3, failed=lambda *_: None)
    def job(self: Any) -> str:
        self.retry(countdown=0, throw=False)
        return "done"

    request = {"id": uuid(), "task": "job", "is_eager": False, "delivery_info": {}}
    build_tracer("job", app.tasks["job"], app=app, hostname="here")(request["id"], (), {}, request)
    assert told.seen == [RETRY, "sent", SUCCESS]
