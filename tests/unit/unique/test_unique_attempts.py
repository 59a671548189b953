"""Unique jobs and their attempts: who holds the lock, and when it is free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Ignore, Reject

from celery_laravel import (
    Bus,
    ConfigurationError,
)
from celery_laravel.attempt import unique
from celery_laravel.middleware import Skip
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import LockRequest
from tests.unit.unique.scripted import job, nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.support.clock import Clock
    from tests.unit.unique.conftest import Worker

pytestmark = pytest.mark.matrix


def test_the_lock_is_a_lease_while_the_job_runs(app: Celery, worker: Worker) -> None:
    seen: list[Any] = []
    task = job(app, lambda self: seen.extend(store_of(app).locks.all()))
    first = task.delay()
    worker.work()
    [record] = seen
    assert (record.key, record.owner, record.kind, record.task) == ("unique:job", first.id, "unique", "job")
    assert record.is_lease
    assert (record.expires_at - record.taken_at).total_seconds() == 60


@pytest.mark.parametrize(
    "step",
    [None, OSError("bad"), lambda self: self.fail(), lambda self: self.delete(), Ignore(), Reject("no")],
    ids=["success", "exception", "fail", "delete", "ignore", "reject"],
)
def test_the_lock_is_freed_however_the_job_ends(
    app: Celery, worker: Worker, locks: Callable[[], dict[str, str]], step: Any
) -> None:
    task = job(app, step)
    task.delay()
    assert locks() != {}
    worker.work()
    assert task.ran == [0]
    assert locks() == {}


def test_a_job_that_its_middleware_skips_is_done(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app, middleware=[Skip.when(True)])
    task.delay()
    worker.work()
    assert (task.ran, locks()) == ([], {})


@pytest.mark.parametrize(
    "options",
    [{"tries": 3}, {"autoretry_for": (OSError,), "max_retries": 2, "retry_backoff": False, "default_retry_delay": 0}],
    ids=["tries", "autoretry"],
)
def test_the_lock_is_kept_between_attempts(
    app: Celery, worker: Worker, time: Clock, locks: Any, options: dict[str, Any]
) -> None:
    task = job(app, OSError("one"), OSError("two"), None, **options)
    first = task.delay()
    for _ in range(2):
        assert worker.work() == 1
        time.now += 10**6
        assert locks() == {"unique:job": first.id}
        assert task.delay().suppressed
    worker.work()
    assert (task.ran, locks()) == ([0, 0, 0], {})


def test_the_lock_is_kept_when_the_job_is_released(app: Celery, worker: Worker, time: Clock, locks: Any) -> None:
    task = job(app, lambda self: self.release(3600), None)
    first = task.delay()
    worker.work()
    time.now += 10**6
    assert locks() == {"unique:job": first.id}
    worker.work()
    assert locks() == {}


def test_the_lock_is_freed_when_the_attempts_are_used_up_at_pick_up(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app, lambda self: self.release(), tries=1)
    task.delay()
    worker.work_until_idle()
    assert (task.ran, locks()) == ([0], {})


def test_a_job_that_ended_is_dispatched_anew_by_its_own_failed_hook(app: Celery, worker: Worker) -> None:
    results = []

    def hook(self: Any, exc: BaseException, *_: Any) -> None:
        results.append(self.delay())

    task = job(app, OSError("bad"), None, failed=hook)
    task.delay()
    worker.work_until_idle()
    assert task.ran == [0, 0]
    assert not results[0].suppressed


def test_the_lock_is_the_jobs_until_its_attempt_ends_whatever_it_says(app: Celery, worker: Worker) -> None:
    results: list[Any] = []

    def fail_and_dispatch(self: Any) -> None:
        self.fail()
        results.append(self.delay())

    task = job(app, fail_and_dispatch)
    task.delay()
    worker.work_until_idle()
    assert results[0].suppressed


def test_a_job_may_hand_its_lock_on_to_itself(app: Celery, worker: Worker, locks: Any) -> None:
    held: list[Any] = []

    def dispatch_itself(self: Any) -> None:
        result = self.apply_async(task_id=self.request.id)
        assert not result.suppressed

    task = job(app, dispatch_itself, None)
    first = task.delay()
    worker.work()
    held.append(locks())
    assert task.delay().suppressed
    worker.work_until_idle()
    assert held == [{"unique:job": first.id}]
    assert (task.ran, locks()) == ([0, 0], {})


def test_a_job_that_lost_its_lock_does_not_settle_itself_by_its_own_dispatch(app: Celery, worker: Worker) -> None:
    def dispatch_itself(self: Any) -> str:
        store_of(app).locks.free("unique:job")
        store_of(app).locks.acquire(LockRequest("unique:job", "another", "unique"))
        assert self.apply_async(task_id=self.request.id).id == "another"
        assert app.backend.get_state(self.request.id) == "PENDING"
        return "done"

    task = job(app, dispatch_itself)
    result = task.delay()
    worker.work_until_idle()
    assert result.get() == "done"


def test_only_the_owner_frees_a_lock(app: Celery, worker: Worker, time: Clock, locks: Any) -> None:
    task = job(app, unique_for=30)
    task.delay(1)
    time.now += 30
    second = task.delay(2)
    one, two = worker.messages()
    worker.deliver(one)
    assert task.ran == [1], "its lock had ended by agreement, so it runs"
    assert locks() == {"unique:job": second.id}
    worker.deliver(two)
    assert (task.ran, locks()) == ([1, 2], {})


def test_a_job_that_lost_its_lock_waits_for_the_new_holder_and_uses_up_no_attempt(
    app: Celery, worker: Worker, locks: Any
) -> None:
    attempts: list[int] = []
    task = job(app, lambda self: attempts.append(self.attempts), tries=1)
    task.delay(1)
    store_of(app).locks.free("unique:job")
    second = task.delay(2)
    one, two = worker.messages()
    for turn in range(1, 4):
        worker.deliver(one)
        [one] = worker.messages()
        assert one.headers["laravel"]["waits"] == turn
        assert one.headers["laravel"].get("turn", 0) == 0
    assert task.ran == []
    assert locks() == {"unique:job": second.id}
    worker.deliver(two)
    worker.deliver(one)
    assert (task.ran, attempts, locks()) == ([2, 1], [1, 1], {})


def test_two_copies_of_a_job_that_waits_run_it_once(app: Celery, worker: Worker) -> None:
    task = job(app)
    task.delay(1)
    store_of(app).locks.free("unique:job")
    store_of(app).locks.acquire(LockRequest("unique:job", "another", "unique"))
    [message] = worker.messages()
    worker.deliver(message), worker.deliver(message)  # the broker delivered it again, before its turn
    store_of(app).locks.free("unique:job")
    worker.work_until_idle()
    assert task.ran == [1]


def test_a_late_copy_frees_nothing(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app)
    task.delay(1)
    [message] = worker.messages()
    worker.deliver(message)
    second = task.delay(2)
    worker.deliver(message)
    assert task.ran == [1]
    assert locks() == {"unique:job": second.id}


def test_a_job_that_loses_its_worker_each_time_comes_to_an_end(app: Celery, worker: Worker, locks: Any) -> None:
    class Killed(BaseException):
        pass

    task = job(app, Killed())
    task.delay()
    [message] = worker.messages()
    for _ in range(3):
        with pytest.raises(Killed):
            worker.deliver(message)
    worker.deliver(message)
    assert (len(task.ran), locks()) == (3, {})


def test_unique_jobs_are_acknowledged_late_and_requeued_unless_they_say_otherwise(app: Celery) -> None:
    task = job(app)
    assert task.acks_late
    assert task.reject_on_worker_lost
    other = app.task(name="early", unique=True, acks_late=False)(nothing)
    assert not other.acks_late


def test_a_job_acknowledged_early_has_a_lease_too(app: Celery, worker: Worker, calls: list[str]) -> None:
    leases: list[bool] = []
    task = job(app, lambda self: leases.extend(r.is_lease for r in store_of(app).locks.all()), acks_late=False)
    task.delay()
    calls.clear()
    worker.work()
    assert leases == [True]
    assert calls == ["locks.acquire", "locks.release_soon"]


def test_a_start_and_an_end_make_one_call_each_and_the_freeing_is_posted(
    app: Celery, worker: Worker, calls: list[str]
) -> None:
    task = job(app)
    task.delay()
    calls.clear()
    worker.work()
    assert task.ran == [0]
    assert calls == ["attempts.begin", "locks.release_soon", "settle"]


def test_unique_via_keeps_the_lock_in_another_store(app: Celery, worker: Worker, locks: Any) -> None:
    url = "memory://elsewhere"
    task = job(app, lambda self: self.release(5), None, unique_via=url)
    first = task.delay()
    other = unique.store_for(task)
    assert other is unique.store_for(task), "it is opened once"
    assert [record.owner for record in other.locks.all()] == [first.id]
    assert task.delay().suppressed
    worker.work()
    assert [record.is_lease for record in other.locks.all()] == [False]
    worker.work()
    assert (task.ran, other.locks.all(), locks()) == ([0, 0], [], {})


def test_a_store_that_is_none_is_an_error_that_names_task_and_option(app: Celery) -> None:
    task = job(app, unique_via="mongo://somewhere")
    with pytest.raises(ConfigurationError, match=r"Task 'job': unique_via = 'mongo://somewhere' is no store"):
        task.delay()


def test_dispatch_sync_neither_takes_nor_frees(app: Celery, locks: Any) -> None:
    task = job(app)
    queued = task.delay()
    task.dispatch_sync(5)
    assert task.ran == [5]
    assert locks() == {"unique:job": queued.id}


def test_a_failed_job_that_is_tried_again_takes_its_lock_again(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app, OSError("bad"), None)
    first = task.delay()
    worker.work()
    assert locks() == {}
    Bus(app).failed.retry(first.id)
    assert locks() == {"unique:job": first.id}
    worker.work()
    assert (task.ran, locks()) == ([0, 0], {})


def test_a_replaced_job_frees_its_lock(app: Celery, worker: Worker, locks: Any) -> None:
    other = app.task(name="other")(nothing)
    task = job(app, lambda self: self.replace(other.si()))
    task.delay()
    worker.work()
    assert locks() == {}


def test_a_job_replaced_by_one_that_a_twin_keeps_out_is_done(
    app: Celery, worker: Worker, locks: Callable[[], dict[str, str]]
) -> None:
    """The job that takes its place is of the same task, has the same id, and is suppressed."""
    task = job(app, lambda self: self.replace(self.si(2)), unique_id="value")
    twin = task.apply_async((2,), countdown=3600)
    worker.messages()
    replaced = task.delay(1)
    worker.work()
    assert (replaced.state, replaced.result) == ("SUCCESS", None)
    assert locks() == {"unique:job:2": twin.id}


def test_a_replaced_job_whose_successor_cannot_be_published_frees_its_lock(
    app: Celery, worker: Worker, locks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(self: Any) -> None:
        monkeypatch.setattr(app.amqp, "send_task_message", refuse)
        self.replace(self.si(2))

    task = job(app, replace, unique_id="value")
    task.delay(1)
    worker.work()
    assert locks() == {}


def refuse(*_: Any, **__: Any) -> None:
    raise ConnectionError("the broker is gone")
