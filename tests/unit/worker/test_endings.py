"""How far a child has come with its job's end, as its worker's parent sees it."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.states import FAILURE, PENDING, SUCCESS
from celery.utils import uuid
from celery.worker import state

from celery_laravel import Bus, StoreUnavailableError
from celery_laravel.job.own_tasks import ANNOUNCE
from celery_laravel.message.debts import SETTLE
from celery_laravel.runtime import runtime_of
from celery_laravel.worker import endings, leases, request, results
from celery_laravel.worker.endings import Ending, Endings
from celery_laravel.worker.request import JobRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

pytestmark = pytest.mark.matrix


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endings]:
    """The memory, in which this process writes as the first child."""
    monkeypatch.setattr(endings, "_shared", [])
    monkeypatch.setattr(endings, "current_process", lambda: SimpleNamespace(index=0))
    endings.share()
    yield endings._shared[0]
    state.reset_state()
    leases._leaving.clear()


@pytest.fixture
def job(app: Celery) -> Any:
    @app.task(name="job", tries=1, failed=lambda *_: None)
    def job() -> None:
        """Succeed."""

    job.one = uuid()
    return job


class Received:
    """The job's message in the worker's parent, taken by a child a moment ago."""

    def __init__(self, task: Any, **headers: Any) -> None:
        self.answers: list[Any] = []
        message = SimpleNamespace(
            headers={"id": task.one, "task": task.name, "root_id": task.one, **headers},
            body="[[], {}, {}]",
            content_type="application/json",
            content_encoding="utf-8",
            payload=[[], {}, {}],
            delivery_info={"exchange": "", "routing_key": task.app.main},
            properties={"correlation_id": task.one},
        )
        self.request = JobRequest(
            message,
            app=task.app,
            task=task,
            on_ack=lambda *_: self.answers.append("acknowledged"),
            on_reject=lambda _log, _errors, requeue: self.answers.append("requeued" if requeue else "rejected"),
        )
        self.request.on_accepted(os.getpid(), time.monotonic() - 5)
        self.owner = self.request.lease_owners[0]

    def exceed(self) -> None:
        """Go beyond the hard limit, as billiard tells it."""
        self.request.on_failure(_info(TimeLimitExceeded(1)))
        self.request.on_timeout(soft=False, timeout=1)


def _info(error: BaseException) -> ExceptionInfo:
    try:
        raise error
    except type(error):
        return ExceptionInfo()


def store_success(task: Any, *, ago: timedelta = timedelta(0)) -> None:
    """Have the result of a success in the backend, as of then."""
    done = datetime.now(timezone.utc) - ago
    meta = {"status": SUCCESS, "result": 7, "traceback": None, "children": [], "date_done": done.isoformat()}
    backend = task.backend
    backend.set(backend.get_key_for_task(task.one), backend.encode({**meta, "task_id": task.one}))


def test_a_child_tells_of_its_last_start_alone(shared: Endings) -> None:
    shared.tell(3, "one/1", Ending.SUCCEEDED)
    shared.tell(4, "two/2", Ending.HOOK_CALLED)
    shared.tell(4, "two/2", Ending.ANNOUNCED)
    assert [shared.find(owner) for owner in ("one/1", "two/2", "two/3")] == [Ending.SUCCEEDED, Ending.ANNOUNCED, None]
    shared.tell(3, "three/1", Ending.PUT_BACK)
    assert (shared.find("one/1"), shared.find("three/1")) == (None, Ending.PUT_BACK)


def test_a_child_beyond_the_last_place_tells_nothing(shared: Endings) -> None:
    shared.tell(1023, "last/1", Ending.SUCCEEDED)
    shared.tell(1024, "beyond/1", Ending.SUCCEEDED)
    assert (shared.find("last/1"), shared.find("beyond/1")) == (Ending.SUCCEEDED, None)


def test_a_process_outside_of_a_pool_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "current_process", SimpleNamespace)
    endings.tell("one/1", Ending.SUCCEEDED)
    assert endings.told("one/1") is None


def test_a_job_that_tells_nothing_fails_by_its_limit(job: Any) -> None:
    received = Received(job)
    received.exceed()
    assert (job.AsyncResult(job.one).state, received.answers) == (FAILURE, ["acknowledged"])
    assert Bus(job.app).failed.find(job.one) is not None


@pytest.mark.parametrize("is_told", [True, False])
def test_a_success_that_was_told_or_stored_is_no_failure(job: Any, *, is_told: bool) -> None:
    received = Received(job)
    if is_told:
        endings.tell(received.owner, Ending.SUCCEEDED)
    else:
        store_success(job)
    received.exceed()
    assert (job.AsyncResult(job.one).state, received.answers) == (PENDING if is_told else SUCCESS, ["acknowledged"])
    assert Bus(job.app).failed.all() == []


def test_a_success_of_an_earlier_job_of_the_same_id_does_not_hide_a_failure(job: Any) -> None:
    store_success(job, ago=timedelta(minutes=1))
    Received(job).exceed()
    assert Bus(job.app).failed.find(job.one) is not None


def test_a_success_that_was_not_told_is_not_looked_for_where_results_are_ignored(job: Any) -> None:
    store_success(job)
    Received(job, ignore_result=True).exceed()
    assert Bus(job.app).failed.find(job.one) is not None


def test_a_result_backend_that_does_not_answer_knows_of_no_success(
    job: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(job.backend, "_get_task_meta_for", refuse)
    now = time.time()
    assert results.stored_success(job, job.one, since=now, ignores_result=False) is None
    assert "it is not known whether a result was stored" in caplog.text


def test_a_job_that_is_on_its_way_again_is_let_go_of(job: Any) -> None:
    received = Received(job)
    endings.tell(received.owner, Ending.PUT_BACK)
    received.exceed()
    assert (job.AsyncResult(job.one).state, received.answers) == (PENDING, ["acknowledged"])
    assert Bus(job.app).failed.all() == []


def test_a_success_of_which_nobody_takes_note_comes_again(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("redis://away")

    monkeypatch.setattr(runtime_of(job.app).debts, "pay", refuse)
    monkeypatch.setattr(job.app.tasks[SETTLE], "apply_async", refuse)
    received = Received(job)
    endings.tell(received.owner, Ending.SUCCEEDED)
    received.exceed()
    assert received.answers == ["requeued"]


@pytest.mark.parametrize(("ending", "members"), [(Ending.SUCCEEDED, (0, 0)), (Ending.PUT_BACK, (1, 0)), (None, (0, 1))])
def test_a_member_that_is_terminated_after_its_end_is_counted_by_that(
    job: Any, ending: Ending | None, members: tuple[int, int]
) -> None:
    batch = Bus(job.app).batch([job.s().set(task_id=job.one)]).allow_failures().dispatch()
    message = job.app.connection_for_write().channel().basic_get(job.app.main)
    received = Received(job, laravel=message.headers["laravel"])
    if ending is not None:
        endings.tell(received.owner, ending)
    received.request._announce_revoked("terminated", True, "SIGTERM", False)
    batch = batch.fresh()
    assert (batch.pending_jobs, batch.failed_jobs) == members


def test_a_job_that_ends_while_its_parent_asks_has_ended(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    received = Received(job)
    monkeypatch.setattr(request, "stored_success", lambda *_, **__: endings.tell(received.owner, Ending.SUCCEEDED))
    received.exceed()
    assert Bus(job.app).failed.all() == []


def test_a_process_that_is_lost_after_the_success_leaves_a_success(job: Any) -> None:
    received = Received(job)
    endings.tell(received.owner, Ending.SUCCEEDED)
    received.request.on_failure(_info(WorkerLostError("lost")))
    assert received.answers == ["acknowledged"]
    assert Bus(job.app).failed.all() == []


@pytest.mark.parametrize(
    ("ending", "has_record", "hooks"),
    [(None, True, 1), (Ending.HOOK_CALLED, True, 0), (Ending.ANNOUNCED, False, 0)],
)
def test_what_the_child_has_done_about_a_failure_is_not_done_again(
    job: Any, ending: Ending | None, hooks: int, *, has_record: bool
) -> None:
    """A record that is not there any more has been retried, or forgotten."""
    received = Received(job)
    if ending is not None:
        endings.tell(received.owner, ending)
    received.exceed()
    assert job.AsyncResult(job.one).state == FAILURE
    assert (Bus(job.app).failed.find(job.one) is not None) == has_record
    message = job.app.connection_for_write().channel().basic_get(job.app.main)
    assert (message is not None) == bool(hooks), "the hook is called by a job of its own"


def test_a_parent_that_dies_before_it_has_ended_the_turn_has_had_the_hook_called(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on the message that comes again is a copy, which is dropped, and would tell nobody."""

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime_of(job.app).settlement, "finished", die)
    with pytest.raises(KeyboardInterrupt):
        Received(job).exceed()
    message = job.app.connection_for_write().channel().basic_get(job.app.main)
    assert message.headers["task"] == ANNOUNCE


@pytest.mark.parametrize("what", ["exceeds its limit", "is lost", "is revoked"])
def test_a_message_is_kept_until_its_job_has_been_settled(
    app: Celery, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A worker that dies in between has it delivered again."""

    @app.task(name="job", acks_late=True, reject_on_worker_lost=False, tries=1)
    def job() -> None: ...

    job.one = uuid()
    header = {"v": 1, "batch_id": "batch", "index": 0}
    received = Received(app.tasks["job"], laravel=header)
    settle = app.tasks["job"].settle_without_child

    def settling(*arguments: Any) -> bool:
        received.answers.append("settled")
        return bool(settle(*arguments))

    monkeypatch.setattr(app.tasks["job"], "settle_without_child", settling)
    if what == "exceeds its limit":
        received.exceed()
    elif what == "is lost":
        received.request.on_failure(_info(WorkerLostError("lost")))
    else:
        state.revoked.add(job.one)
        assert received.request.revoked()
    assert received.answers == ["settled", "acknowledged"]


def test_a_message_is_answered_even_if_its_job_cannot_be_settled(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("of the store")

    monkeypatch.setattr(job, "settle_without_child", refuse)
    received = Received(job)
    received.exceed()
    assert received.answers == ["acknowledged"]
