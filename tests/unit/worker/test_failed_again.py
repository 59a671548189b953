"""A job that had failed, and whose worker died before that was all written down: its message comes again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from billiard.exceptions import TimeLimitExceeded

from celery_laravel import Bus
from celery_laravel.attempt.leases import LEASE
from celery_laravel.runtime import runtime_of
from tests.unit.unique.conftest import Worker

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.clock import Clock

pytestmark = pytest.mark.matrix


class DiedError(BaseException):
    """What ends the worker."""


@pytest.fixture
def called(app: Celery) -> list[str]:
    """What the hook of the task ``job`` was called with."""
    called: list[str] = []

    @app.task(name="job", tries=1, failed=lambda _self, error: called.append(type(error).__name__))
    def job() -> None:
        raise OSError("no")

    return called


def die_at(app: Celery, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Deliver the job to a worker that dies when it comes to a part of the settling; return the message."""
    worker = Worker(app)
    app.tasks["job"].delay()
    (message,) = worker.messages()

    def die(*_: Any, **__: Any) -> None:
        raise DiedError

    with monkeypatch.context() as patch:
        patch.setattr(runtime_of(app).settlement, name, die)
        with pytest.raises(DiedError):
            worker.deliver(message)
    return message


def come_again(app: Celery, message: Any, time: Clock) -> None:
    """Deliver the message once more, when the lease of the worker that died is over."""
    time.now += LEASE.total_seconds() + 1
    Worker(app).deliver(message)


def test_the_hook_is_not_called_again_for_what_had_been_recorded(
    app: Celery, called: list[str], time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = die_at(app, "finished", monkeypatch)
    come_again(app, message, time)
    assert called == ["OSError"]
    (record,) = Bus(app).failed.all()
    assert record.exception.startswith("OSError")


def test_the_hook_is_called_again_for_what_had_not(
    app: Celery, called: list[str], time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = die_at(app, "_keep_record", monkeypatch)
    come_again(app, message, time)
    assert called == ["OSError", "MaxAttemptsExceededError"]


def test_the_record_of_a_lost_process_does_not_tell_that_the_hook_was_called(
    app: Celery, called: list[str], time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(app)
    app.tasks["job"].delay()
    (message,) = worker.messages()
    with monkeypatch.context() as patch:
        patch.setattr(app.tasks["job"], "run", lambda: (_ for _ in ()).throw(DiedError))
        with pytest.raises(DiedError):
            worker.deliver(message)
    monkeypatch.setattr(runtime_of(app).settlement, "finished", lambda *_: None)
    app.tasks["job"].settle_without_child(worker.request(message)._context, TimeLimitExceeded(1))
    worker.messages()  # the announcement, which is lost with its broker
    come_again(app, message, time)
    assert called == ["MaxAttemptsExceededError"]


def test_a_retry_that_fails_at_once_calls_the_hook(
    app: Celery, called: list[str], time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is not gone yet, but claimed by whoever retries it."""
    message = die_at(app, "finished", monkeypatch)
    (record,) = Bus(app).failed.all()
    store = runtime_of(app).failed_jobs
    assert store.claim(record.id, owner="me", lease=timedelta(minutes=5)) is not None
    come_again(app, message, time)
    assert called == ["OSError", "MaxAttemptsExceededError"]
