"""Unique jobs: one of a key from dispatch until it has ended."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery.beat import ScheduleEntry, Scheduler
from celery.exceptions import Ignore, NotRegistered, Reject
from kombu.exceptions import EncodeError

from celery_laravel import (
    Bus,
    ConfigurationError,
    Job,
    ShouldBeUnique,
    ShouldBeUniqueUntilProcessing,
    StoreUnavailableError,
    signals,
)
from celery_laravel.attempt import unique
from celery_laravel.job.undeliverable import settle_undeliverable
from celery_laravel.middleware import Release, Skip
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import LockRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from tests.support.clock import Clock
    from tests.unit.unique.conftest import Worker

pytestmark = pytest.mark.matrix


def job(app: Celery, *script: Any, **options: Any) -> Any:
    """A unique job whose n-th run does the n-th step of a script, the last one repeating; ``ran`` is what it got."""
    ran: list[Any] = []
    steps = list(script) or [None]

    @app.task(name="job", bind=True, **{"unique": True, **options})
    def run(self: Any, value: Any = 0, other: Any = 0) -> Any:
        ran.append(value)
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if isinstance(step, BaseException):
            raise step
        return step(self) if callable(step) else step

    run.ran = ran
    return run


def nothing() -> None:
    pass


# -- dispatch


def test_a_second_dispatch_is_suppressed_and_returns_the_holders_result(
    app: Celery, worker: Worker, skipped: list[Any]
) -> None:
    task = job(app)
    first, second = task.delay(1), task.delay(2)
    assert (first.suppressed, second.suppressed) == (False, True)
    assert second.id == first.id
    [(own_id, holder_id)] = skipped
    assert holder_id == first.id != own_id
    worker.work_until_idle()
    assert task.ran == [1]


def test_the_lock_is_the_jobs_for_as_long_as_it_is_queued(
    app: Celery, time: Clock, locks: Callable[[], dict[str, str]]
) -> None:
    task = job(app)
    first = task.apply_async(countdown=10 * 86400)
    time.now += 365 * 86400
    assert locks() == {"unique:job": first.id}
    assert task.delay().suppressed


def test_without_unique_id_arguments_are_no_part_of_the_key(app: Celery) -> None:
    task = job(app)
    assert not task.delay(1).suppressed
    assert task.delay(2).suppressed


@pytest.mark.parametrize("other", [((1,), {}), ((), {"value": 1}), ((1, 0), {}), ((), {"value": 1, "other": 0})])
def test_equal_arguments_make_equal_keys_whatever_way_they_are_passed(app: Celery, other: Any) -> None:
    task = job(app, unique_id=("value", "other"))
    task.delay(1)
    assert task.apply_async(*other).suppressed
    assert not task.delay(1, 2).suppressed


def test_a_unique_id_may_be_a_method(app: Celery, locks: Callable[[], dict[str, str]]) -> None:
    class Update(Job, ShouldBeUnique):
        name = "update"
        tries = 2

        def unique_id(self, product: Any, **_: Any) -> Any:
            return product["id"]

        def run(self, product: Any, **_: Any) -> None:
            pass

    task = app.register_task(Update())
    first = task.delay({"id": 7, "name": "a"}, x=1)
    assert task.delay({"id": 7, "name": "b"}).id == first.id
    assert locks() == {"unique:update:7": first.id}


@pytest.mark.parametrize("other", [((), {}), ((0,), {}), ((), {"value": 0, "other": 5}), ((0, 5), {})])
def test_a_method_is_given_the_arguments_that_it_names_whatever_way_they_are_passed(app: Celery, other: Any) -> None:
    """So that it need not repeat all parameters of the task with their defaults."""
    task = job(app, unique_id=lambda self, value: value)
    task.delay()
    assert task.apply_async(*other).suppressed
    assert not task.delay(1).suppressed


def test_a_method_whose_names_are_its_own_is_given_all_arguments_as_they_are(app: Celery, locks: Any) -> None:
    job(app, unique_id=lambda self, first, *rest: (first, *rest)).delay(1, 2)
    assert list(locks()) == ["unique:job:[1, 2]"]


def test_long_values_are_hashed(app: Celery, locks: Callable[[], dict[str, str]]) -> None:
    task = job(app, unique_id="value")
    task.delay("x" * 500 + "1"), task.delay("x" * 500 + "2")
    assert len(locks()) == 2
    assert all(len(key) <= 255 for key in locks())


def test_a_value_without_a_text_of_its_own_is_an_error(app: Celery, worker: Worker) -> None:
    with pytest.raises(TypeError, match="cannot be a key"):
        job(app, unique_id="value").delay(object())
    assert worker.messages() == []


def test_arguments_that_do_not_fit_are_celerys_error(app: Celery, locks: Callable[[], dict[str, str]]) -> None:
    with pytest.raises(TypeError):
        job(app, unique_id="value").delay(1, 2, 3, 4)
    assert locks() == {}


@pytest.mark.parametrize("unique_for", [30, timedelta(seconds=30)])
def test_unique_for_ends_the_lock_and_is_counted_from_dispatch(app: Celery, time: Clock, unique_for: Any) -> None:
    task = job(app, unique_for=unique_for)
    task.delay()
    time.now += 29
    assert task.delay().suppressed
    time.now += 1
    assert not task.delay().suppressed


def test_unique_for_may_be_given_with_a_dispatch(app: Celery, time: Clock, worker: Worker) -> None:
    task = job(app, unique_for=30)
    task.apply_async(unique_for=90)
    time.now += 60
    assert task.delay().suppressed
    [message] = worker.messages()
    assert "unique_for" not in message.headers


@pytest.mark.parametrize("none", [0, None])
def test_unique_for_of_zero_or_none_has_no_end(app: Celery, time: Clock, none: Any) -> None:
    task = job(app, unique_for=none)
    task.delay()
    time.now += 10**9
    assert task.delay().suppressed


def test_unique_for_makes_sense_for_unique_jobs_only(app: Celery) -> None:
    task = job(app, unique=False)
    with pytest.raises(ConfigurationError, match=r"unique_for=5.*unique=True"):
        task.apply_async(unique_for=5)
    with pytest.raises(ConfigurationError, match="seconds or a timedelta"):
        task.apply_async(unique_for="soon")


def test_when_publishing_fails_the_lock_is_free_again(app: Celery, locks: Callable[[], dict[str, str]]) -> None:
    task = job(app, unique_for=3600)
    with pytest.raises(EncodeError):
        task.apply_async((object(),), serializer="json")
    assert locks() == {}
    assert not task.delay().suppressed


@contextmanager
def killed_as_it_publishes(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is done within ends where it would send a message."""

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(app.amqp, "send_task_message", die)
        with pytest.raises(Killed):
            yield


def test_a_process_that_dies_before_its_message_is_out_holds_the_lock_for_a_minute(
    app: Celery, time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = job(app)
    with killed_as_it_publishes(app, monkeypatch):
        task.delay()
    assert task.delay().suppressed
    time.now += 60
    assert not task.delay().suppressed


@pytest.mark.parametrize("how", ["release", "retry"])
def test_a_process_that_dies_before_it_has_put_its_job_back_holds_the_lock_for_a_minute(
    app: Celery, worker: Worker, time: Clock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A job that is acknowledged early has no other message then, so nobody would free a lock without an end."""
    task = job(app, lambda self: self.release(5) if how == "release" else self.retry(countdown=5), acks_late=False)
    task.delay()
    with killed_as_it_publishes(app, monkeypatch):
        worker.work()
    assert task.delay().suppressed
    time.now += 60
    assert not task.delay().suppressed


def test_a_job_that_is_put_back_keeps_its_lock_without_an_end(app: Celery, worker: Worker, time: Clock) -> None:
    task = job(app, lambda self: self.release(5))
    task.delay()
    worker.work()
    time.now += 1000
    assert task.delay().suppressed


def test_a_store_that_does_not_answer_lets_nothing_out(
    app: Celery, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = job(app)

    def unavailable(*_: Any) -> Any:
        raise StoreUnavailableError("redis://gone")

    monkeypatch.setattr(store_of(app).locks, "acquire", unavailable)
    with pytest.raises(StoreUnavailableError):
        task.delay()
    assert worker.messages() == []


def test_a_dispatch_waits_for_one_call_of_the_store_and_a_suppressed_one_too(app: Celery, calls: list[str]) -> None:
    task = job(app)
    task.delay()
    assert calls == ["locks.acquire", "locks.confirm"]
    task.delay()
    assert calls[2:] == ["locks.acquire"]


def test_with_unique_for_a_dispatch_makes_one_call(app: Celery, calls: list[str]) -> None:
    job(app, unique_for=60).delay()
    assert calls == ["locks.acquire"]


def test_send_task_by_a_known_name_is_checked(app: Celery, worker: Worker) -> None:
    task = job(app, unique_id="value")
    first = app.send_task("job", (1,))
    assert not first.suppressed
    assert app.send_task("job", kwargs={"value": 1}, countdown=5).id == first.id
    assert task.delay(1).suppressed
    assert app.signature("job", args=(1,)).apply_async().suppressed
    assert not app.send_task("job", (2,)).suppressed
    worker.work_until_idle()
    assert task.ran == [1, 2]


def test_send_task_of_other_names_is_celerys_own(app: Celery, worker: Worker) -> None:
    job(app)
    app.send_task("elsewhere", (1,), queue=app.main, headers={"mine": 1})
    [message] = worker.messages()
    assert message.headers["task"] == "elsewhere"
    assert message.headers["mine"] == 1


def test_an_app_without_such_jobs_keeps_celerys_send_task(app: Celery) -> None:
    job(app, unique=False)
    assert "send_task" not in vars(app)


def test_beat_entries_by_name_are_checked(app: Celery, worker: Worker) -> None:
    task = job(app, unique_id="value")
    scheduler = Scheduler(app, lazy=True)
    results = [
        scheduler.apply_async(ScheduleEntry("entry", "job", schedule=60, args=(1,), app=app), advance=False)
        for _ in range(2)
    ]
    assert [result.suppressed for result in results] == [False, True]
    worker.work_until_idle()
    assert task.ran == [1]


def test_a_step_of_a_chain_with_catch_is_skipped_and_the_chain_goes_on(app: Celery, worker: Worker) -> None:
    seen: list[str] = []

    @app.task(name="note")
    def note(what: str) -> None:
        seen.append(what)

    task = job(app)
    task.delay("first")
    result = Bus(app).chain([note.si("one"), task.si("second"), note.si("two")]).catch(note.s()).dispatch()
    [queued, step] = worker.messages()
    worker.deliver(step)
    worker.work_until_idle()
    assert (seen, task.ran) == (["one", "two"], [])
    assert result.get() is None
    worker.deliver(queued)
    assert task.ran == ["first"]


# -- attempts


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


# -- what the worker's parent sees


def test_a_revoked_or_expired_job_frees_its_lock(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app)
    task.delay()
    [message] = worker.messages()
    request = worker.request(message)
    request._announce_revoked("expired", terminated=False, signum=None, expired=True)
    assert locks() == {}


@pytest.mark.parametrize("error", [None, OSError("lost")])
def test_a_job_that_is_settled_without_its_child_frees_its_lock(
    app: Celery, worker: Worker, locks: Any, error: Any
) -> None:
    task = job(app)
    task.delay()
    [message] = worker.messages()
    task.settle_without_child(worker.request(message)._context, error)
    assert locks() == {}


def test_a_job_whose_task_the_worker_does_not_know_frees_its_lock(app: Celery, worker: Worker, locks: Any) -> None:
    job(app).delay()
    [message] = worker.messages()
    settle_undeliverable(app, message, NotRegistered("job"))
    assert locks() == {}


# -- eager


def test_an_eager_job_takes_and_frees_its_lock(make_app: Callable[..., Celery], app: Celery, locks: Any) -> None:
    app.conf.task_always_eager = True
    held: list[Any] = []
    inner: list[Any] = []

    def look(self: Any) -> None:
        held.append(list(locks()))
        inner.append(self.delay().suppressed)

    task = job(app, look)
    assert task.delay().suppressed is False
    assert (held, inner, locks()) == ([["unique:job"]], [True], {})
    assert task.delay().suppressed is False


def test_an_eager_job_that_fails_frees_its_lock(app: Celery, locks: Any) -> None:
    app.conf.task_always_eager = True
    task = job(app, OSError("bad"), tries=2)
    assert task.delay().failed()
    assert (task.ran, locks()) == ([0, 0], {})


# -- until processing


def test_until_processing_ends_just_before_the_code(app: Celery, worker: Worker, locks: Any) -> None:
    seen: list[Any] = []

    def look_around(job: Any, go_on: Any) -> Any:
        seen.append(list(locks()))
        return go_on(job)

    task = job(app, lambda self: seen.append(list(locks())), unique="until_processing", middleware=[look_around])
    task.delay()
    worker.work()
    assert seen == [["unique:job"], []]


def test_until_processing_the_next_may_be_dispatched_by_the_code(app: Celery, worker: Worker, locks: Any) -> None:
    results: list[Any] = []
    task = job(app, lambda self: results.append(self.delay()), None, unique="until_processing")
    task.delay(1)
    worker.work()
    assert not results[0].suppressed
    assert locks() == {"unique:job": results[0].id}
    worker.work()
    assert (task.ran, locks()) == ([1, 0], {})


def test_until_processing_is_kept_when_middleware_puts_the_job_back(
    app: Celery, worker: Worker, time: Clock, locks: Any
) -> None:
    closed = [True]
    task = job(app, unique="until_processing", middleware=[Release.when(lambda: closed.pop() if closed else False, 9)])
    first = task.delay()
    worker.work()
    time.now += 10**6
    assert locks() == {"unique:job": first.id}
    worker.work()
    assert (task.ran, locks()) == ([0], {})


@pytest.mark.parametrize("end", ["skip", "fail", "too_often"])
def test_until_processing_is_freed_when_the_code_is_never_reached(
    app: Celery, worker: Worker, locks: Any, end: str
) -> None:
    middleware = {
        "skip": [Skip.when(True)],
        "fail": [lambda job, go_on: job.fail("no")],
        "too_often": [Release.when(True)],
    }[end]
    task = job(app, unique="until_processing", tries=2, middleware=middleware)
    task.delay()
    worker.work_until_idle()
    assert (task.ran, locks()) == ([], {})


def test_until_processing_a_retry_does_not_take_the_lock_again(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app, OSError("bad"), None, unique="until_processing", tries=2)
    task.delay(1)
    worker.work()
    assert locks() == {}
    second = task.delay(2)
    assert not second.suppressed
    again, other = worker.messages()
    worker.deliver(again)
    assert locks() == {"unique:job": second.id}
    worker.deliver(other)
    assert (task.ran, locks()) == ([1, 1, 2], {})


def test_until_processing_a_copy_that_comes_after_a_crash_does_not_wait_for_the_next(
    app: Celery, worker: Worker, locks: Any
) -> None:
    class Killed(BaseException):
        pass

    task = job(app, Killed(), None, unique="until_processing")
    task.delay(1)
    [message] = worker.messages()
    with pytest.raises(Killed):
        worker.deliver(message)
    second = task.delay(2)
    worker.deliver(message)
    assert task.ran == [1, 1]
    assert locks() == {"unique:job": second.id}


def test_the_mixin_until_processing_is_the_option(app: Celery) -> None:
    class Update(Job, ShouldBeUniqueUntilProcessing):
        name = "update"

        def run(self) -> None:
            pass

    assert app.register_task(Update()).job_options.unique == "until_processing"


def test_receivers_that_raise_change_nothing(app: Celery) -> None:
    def bad(**_: Any) -> None:
        raise OSError("receiver")

    signals.unique_job_skipped.connect(bad)
    try:
        task = job(app)
        task.delay()
        assert task.delay().suppressed
    finally:
        signals.unique_job_skipped.disconnect(bad)
