"""Copies of a job that are revoked, or expire, while it runs elsewhere or when it has ended: they change nothing."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.states import PENDING, REVOKED
from celery.utils import uuid
from celery.worker import state

from celery_laravel import Bus
from celery_laravel.attempt import leases
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.message.header import read_header
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import AttemptEnd, StartStatus
from celery_laravel.worker.request import JobRequest
from celery_laravel.worker.starting import KEEP_OPEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

pytestmark = pytest.mark.matrix


@pytest.fixture(autouse=True)
def nothing_active(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(leases, "_keepers", {})
    yield
    state.reset_state()


def seconds_from_now(seconds: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).isoformat()


class Copy:
    """A job that is a batch's member and holds a unique lock, and the message of it that comes again too late."""

    def __init__(self, app: Celery, *, redelivered: bool = True) -> None:
        @app.task(name="job", tries=1, unique=True)
        def job() -> None: ...

        self.app, self.id, self.answers, self.task = app, uuid(), [], job
        self.batch = Bus(app).batch([job.si().set(task_id=self.id)]).allow_failures().dispatch()
        (message,) = self.taken()
        self.request = self.received(message, redelivered=redelivered)

    def received(self, message: Any, *, redelivered: bool = True, **headers: Any) -> JobRequest:
        """What a worker makes of a message, whose job should have begun a second ago."""
        info = {**message.delivery_info, "redelivered": redelivered}
        names = ("body", "content_type", "content_encoding", "payload", "properties")
        parts = {name: getattr(message, name) for name in names}
        headers = {**message.headers, "expires": seconds_from_now(-1), **headers}
        return JobRequest(
            SimpleNamespace(headers=headers, delivery_info=info, **parts),
            app=self.app,
            task=self.task,
            on_ack=lambda *_: self.answers.append("acknowledged"),
            on_reject=lambda _log, _errors, requeue: self.answers.append("requeued" if requeue else "rejected"),
        )

    answers: list[str]

    def begin(self, *, lease: float = 60) -> StartStatus:
        """The job starts in another worker."""
        given: dict[str, Any] = {"turn": 0, "attempts": 0, "exceptions": 0, "keep": KEEP_OPEN}
        attempts = store_of(self.app).attempts
        return attempts.begin(self.id, owner="another/1", lease=timedelta(seconds=lease), **given).status

    def taken(self) -> list[Any]:
        """What has been published since the last look."""
        channel, found = self.app.connection_for_write().channel(), []
        while (message := channel.basic_get(self.app.conf.task_default_queue, no_ack=True)) is not None:
            found.append(message)
        return found

    @property
    def seen(self) -> tuple[str, int, int, int]:
        """The state of the result, the batch's failed and pending jobs, and the failed jobs' records."""
        batch = self.batch.fresh()
        stored = self.app.AsyncResult(self.id).state
        return stored, batch.failed_jobs, batch.pending_jobs, Bus(self.app).failed.count()


UNCHANGED = (PENDING, 0, 1, 0)
FAILED = (REVOKED, 1, 0, 1)


@pytest.mark.parametrize("is_revoked", [True, False])
def test_a_copy_of_a_job_that_runs_waits(app: Celery, *, is_revoked: bool) -> None:
    copy = Copy(app)
    copy.begin()
    if is_revoked:
        state.revoked.add(copy.id)
    assert copy.request.revoked()
    assert (copy.answers, copy.seen) == (["acknowledged"], UNCHANGED)
    (waiting,) = copy.taken()
    header = read_header(waiting.headers)
    assert (header.turn, header.waits, header.index) == (0, 1, 0)
    assert waiting.headers["expires"] is not None
    assert copy.begin() is StartStatus.STARTED, "that it runs is as before, its owner being the same"


@pytest.mark.parametrize("is_revoked", [True, False])
def test_a_copy_that_was_put_back_is_looked_at_when_its_time_has_come(app: Celery, *, is_revoked: bool) -> None:
    """Celery looks when it arrives, too, and it would go round and round."""
    copy = Copy(app)
    copy.begin()
    assert copy.request.revoked()
    (waiting,) = copy.taken()
    assert not copy.received(waiting, eta=seconds_from_now(5)).revoked()
    assert copy.taken() == []
    if is_revoked:
        state.revoked.add(copy.id)
    assert copy.received(waiting, eta=seconds_from_now(0)).revoked()
    (waiting,) = copy.taken()
    assert (read_header(waiting.headers).waits, copy.seen) == (2, UNCHANGED)


def test_a_delayed_job_that_has_expired_when_it_arrives_is_settled_at_once(app: Celery) -> None:
    copy = Copy(app, redelivered=False)
    message = copy.request._message
    assert copy.received(message, redelivered=False, eta=seconds_from_now(5)).revoked()
    assert copy.seen == FAILED


def test_a_copy_of_a_job_whose_worker_has_died_is_settled(app: Celery) -> None:
    copy = Copy(app)
    copy.begin(lease=0)
    assert copy.request.revoked()
    assert (copy.answers, copy.seen) == (["acknowledged"], FAILED)


def test_a_copy_of_a_job_that_has_ended_is_dropped(app: Celery) -> None:
    copy = Copy(app)
    copy.begin()
    store_of(app).attempts.end(AttemptEnd(copy.id, 0, is_final=True, attempts=1), keep=KEEP_OPEN)
    assert copy.request.revoked()
    assert (copy.answers, copy.seen, copy.taken()) == (["acknowledged"], UNCHANGED, [])


def test_while_the_store_is_away_a_copy_waits(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Copy(app)

    def fail(*_: Any, **__: Any) -> Any:
        raise StoreUnavailableError("memory://")

    with monkeypatch.context() as patch:
        patch.setattr(store_of(app).attempts, "begin", fail)
        assert copy.request.revoked()
    assert (copy.answers, copy.seen, len(copy.taken())) == (["acknowledged"], UNCHANGED, 1)


def test_a_copy_that_cannot_be_put_back_is_returned(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Copy(app)
    copy.begin()
    monkeypatch.setattr(app, "send_task", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(app.amqp, "send_task_message", lambda *_, **__: 1 / 0)
    assert copy.request.revoked()
    assert (copy.answers, copy.seen) == (["requeued"], UNCHANGED)


def test_one_that_has_not_come_before_is_settled_unasked(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Copy(app, redelivered=False)
    monkeypatch.setattr(store_of(app).attempts, "begin", lambda *_, **__: pytest.fail("the store was asked"))
    assert copy.request.revoked()
    assert (copy.answers, copy.seen) == (["acknowledged"], FAILED)
