"""A job's attempts in eager mode and by ``dispatch_sync``: what it may ask and say, and what follows."""

from __future__ import annotations

import builtins
import itertools
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_laravel import (
    Bus,
    ConfigurationError,
    JobReleasedError,
    ManuallyFailedError,
    MaxAttemptsExceededError,
    current_job,
    install,
    signals,
)
from celery_laravel.attempt.running_job import running_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.matrix

ATTEMPT_SIGNALS = (
    "job_processing",
    "job_processed",
    "job_exception_occurred",
    "job_released",
    "job_failed",
    "job_queueing",
    "job_queued",
    "job_retry_requested",
)


@pytest.fixture
def heard() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The signals that were sent, in order."""
    heard: list[tuple[str, dict[str, Any]]] = []
    receivers = []
    for name in ATTEMPT_SIGNALS:

        def receiver(name: str = name, **details: Any) -> None:
            heard.append((name, details))

        getattr(signals, name).connect(receiver, weak=False)
        receivers.append((getattr(signals, name), receiver))
    yield heard
    for signal, receiver in receivers:
        signal.disconnect(receiver)


def names(heard: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [name for name, _ in heard]


def job(app: Celery, *script: Any, **options: Any) -> Any:
    """A job whose n-th run does the n-th step of a script, the last one repeating; ``runs`` are the attempts it saw."""
    runs: list[int] = []
    steps = itertools.chain(script, itertools.repeat(script[-1]))

    @app.task(name=f"job-{len(app.tasks)}", bind=True, **options)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        runs.append(self.attempts)
        step = next(steps)
        if isinstance(step, BaseException):
            raise step
        return step(self) if callable(step) else step

    run.runs = runs
    return run


def test_tries_bound_the_attempts_and_the_last_exception_is_the_jobs(app: Celery) -> None:
    task = job(app, OSError("one"), OSError("two"), tries=2)
    result = task.apply()
    assert task.runs == [1, 2]
    assert result.state == "FAILURE"
    with pytest.raises(OSError, match="two"):
        result.get()


def test_a_later_attempt_may_succeed(app: Celery) -> None:
    task = job(app, OSError(), OSError(), "done", tries=3)
    assert task.apply().get() == "done"
    assert task.runs == [1, 2, 3]


def test_no_limit_means_none(app: Celery) -> None:
    task = job(app, *[OSError()] * 40, "done", tries=0)
    assert task.apply().get() == "done"


def test_an_eager_job_that_never_ends_is_stopped_with_an_error_that_says_so(app: Celery) -> None:
    task = job(app, lambda self: self.release(), tries=0)
    result = task.apply()
    assert result.state == "FAILURE"
    assert "eager" in str(result.result)
    assert len(task.runs) <= 1001


def test_max_exceptions_fail_whatever_tries_allow(app: Celery) -> None:
    task = job(app, OSError(), lambda self: self.release(), OSError("last"), tries=9, max_exceptions=2)
    with pytest.raises(OSError, match="last"):
        task.apply().get()
    assert task.runs == [1, 2, 3]


def test_releases_use_up_attempts_and_the_job_fails_at_the_next_pick_up(app: Celery) -> None:
    task = job(app, lambda self: self.release(), tries=2)
    with pytest.raises(MaxAttemptsExceededError, match="attempt 3 of 2"):
        task.apply().get()
    assert task.runs == [1, 2]


def test_a_release_may_be_free(app: Celery) -> None:
    task = job(app, *[lambda self: self.release(count_attempt=False)] * 5, "done", tries=2)
    assert task.apply().get() == "done"
    assert task.runs == [1] * 6


@pytest.mark.parametrize("counts", [True, False])
def test_a_release_that_ran_no_code_counts_as_the_setting_says(make_app: Callable[..., Celery], counts: bool) -> None:
    app = install(make_app(laravel_release_counts=counts))
    turns = iter([True, True, True, False])

    def not_yet(job: Any, next: Any) -> Any:  # noqa: A002
        return job.release() if builtins.next(turns) else next(job)

    task = job(app, "done", tries=2, middleware=[not_yet])
    result = task.apply()
    assert (result.state, task.runs) == (("FAILURE", []) if counts else ("SUCCESS", [1]))


def test_a_release_by_the_code_counts_whatever_the_setting_says(make_app: Callable[..., Celery]) -> None:
    app = install(make_app(laravel_release_counts=False))
    task = job(app, lambda self: self.release(), tries=2)
    assert task.apply().state == "FAILURE"
    assert task.runs == [1, 2]


@pytest.mark.parametrize("delay", [-1, "5", None, float("nan"), float("inf"), timedelta(seconds=-1), True])
def test_a_wrong_delay_is_an_error_where_it_is_given(app: Celery, delay: Any) -> None:
    task = job(app, lambda self: self.release(delay))
    with pytest.raises(ValueError, match="release"):
        task.apply().get()


def test_fail_is_final_and_does_not_raise(app: Celery) -> None:
    def fail(self: Any) -> str:
        self.fail(ValueError("first"))
        self.fail(ValueError("second"))
        self.release(5)
        self.delete()
        return "went on"

    task = job(app, fail, tries=5)
    with pytest.raises(ValueError, match="first"):
        task.apply().get()
    assert task.runs == [1]


@pytest.mark.parametrize(
    ("reason", "kind", "text"),
    [
        (None, ManuallyFailedError, "failed by hand"),
        ("no money", ManuallyFailedError, "no money"),
        (ValueError("x"), ValueError, "x"),
        (ValueError, ValueError, "^$"),
    ],
)
def test_the_reason_of_a_failure(app: Celery, reason: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        job(app, lambda self: self.fail(reason)).apply().get()


@pytest.mark.parametrize("after", [lambda self: None, lambda self: self.release(), lambda self: self.fail()])
def test_delete_is_final_and_no_failure(app: Celery, after: Any) -> None:
    def delete(self: Any) -> str:
        self.delete()
        after(self)
        return "value"

    task = job(app, delete, tries=3)
    assert task.apply().get() == "value"
    assert task.runs == [1]


def test_an_exception_after_delete_is_only_reported(app: Celery, heard: Any) -> None:
    def delete(self: Any) -> None:
        self.delete()
        raise OSError

    assert job(app, delete, tries=3).apply().state == "SUCCESS"
    assert names(heard) == ["job_processing", "job_exception_occurred", "job_processed"]


def test_a_job_without_options_may_speak_up_too(app: Celery) -> None:
    task = job(app, lambda self: self.release(), lambda self: self.release(), "done")
    assert task.apply().get() == "done"
    assert task.runs == [1, 2, 3]


def test_the_signals_of_a_job_that_is_tried_twice(app: Celery, heard: Any) -> None:
    task = job(app, OSError("once"), "done", tries=2, backoff=7)
    task.apply((1,), {"k": 2}, task_id="id")
    assert names(heard) == [
        "job_processing",
        "job_exception_occurred",
        "job_released",
        "job_processing",
        "job_processed",
    ]
    for _, details in heard:
        assert details["sender"].name == task.name
        assert (details["task_id"], tuple(details["args"]), details["kwargs"]) == ("id", (1,), {"k": 2})
    assert isinstance(heard[1][1]["exception"], OSError)
    assert heard[2][1]["delay"] == 7


def test_the_signals_of_a_job_that_fails(app: Celery, heard: Any) -> None:
    job(app, OSError("once"), tries=1).apply()
    assert sorted(names(heard)) == ["job_exception_occurred", "job_failed", "job_processing"]


def test_a_plain_tasks_attempts_are_told_to_whoever_listens(app: Celery, heard: Any) -> None:
    job(app, "done").apply()
    job(app, OSError()).apply()
    assert names(heard)[:2] == ["job_processing", "job_processed"]
    assert "job_failed" in names(heard)


def test_a_receiver_that_raises_changes_nothing(app: Celery) -> None:
    def raising(**_: Any) -> None:
        raise RuntimeError("of the receiver")

    for name in ATTEMPT_SIGNALS:
        getattr(signals, name).connect(raising)
    try:
        assert job(app, OSError(), "done", tries=2).apply().get() == "done"
    finally:
        for name in ATTEMPT_SIGNALS:
            getattr(signals, name).disconnect(raising)


def test_dispatching_is_announced_with_the_id_and_the_queue(app: Celery, heard: Any) -> None:
    result = job(app, "done", tries=2).apply_async((1,), queue="q")
    assert names(heard) == ["job_queueing", "job_queued"]
    assert {details["task_id"] for _, details in heard} == {result.id}
    assert {details["queue"] for _, details in heard} == {"q"}


def test_the_failed_hook_is_called_once_with_the_exception_and_the_arguments(app: Celery) -> None:
    seen: list[Any] = []

    def hook(self: Any, exc: Exception, *args: Any, **kwargs: Any) -> None:
        seen.append((self.name, exc, args, kwargs))

    error = OSError("last")
    task = job(app, OSError("first"), error, tries=2, failed=hook)
    task.apply((1,), {"k": 2})
    assert seen == [(task.name, error, (1,), {"k": 2})]


@pytest.mark.parametrize("script", [lambda self: self.delete(), "done"])
def test_the_failed_hook_is_for_failures(app: Celery, script: Any) -> None:
    assert job(app, script, failed=lambda *a: pytest.fail("called")).apply().state == "SUCCESS"


def test_a_hook_that_raises_changes_nothing(app: Celery) -> None:
    def hook(self: Any, exc: Exception) -> None:
        raise RuntimeError("of the hook")

    with pytest.raises(OSError, match="the job's"):
        job(app, OSError("the job's"), tries=1, failed=hook).apply().get()


def test_a_hook_may_ask_the_job(app: Celery) -> None:
    seen: list[Any] = []

    def hook(self: Any, exc: Exception, *args: Any) -> None:
        seen.append((self.attempts, self.request.id, current_job() is self))

    job(app, OSError(), tries=2, failed=hook).apply(task_id="id")
    assert seen == [(2, "id", True)]


def test_a_job_is_not_recorded_as_failed_when_its_caller_sees_it(app: Celery) -> None:
    job(app, OSError(), tries=1).apply()
    assert Bus(app).failed.count() == 0


def test_backoff_functions_get_the_attempt_and_the_exception(app: Celery, heard: Any) -> None:
    def backoff(self: Any, attempt: int, exc: Exception) -> Any:
        return timedelta(seconds=attempt * 10) if str(exc) == "once" else attempt

    job(app, OSError("once"), OSError("twice"), "done", tries=3, backoff=backoff).apply()
    assert [details["delay"] for name, details in heard if name == "job_released"] == [10, 2]


@pytest.mark.parametrize("wrong", [-1, "5", None, float("nan")])
def test_a_backoff_function_that_returns_nonsense_fails_the_job_and_says_so(app: Celery, wrong: Any) -> None:
    task = job(app, OSError(), tries=3, backoff=lambda *_: wrong)
    with pytest.raises(ConfigurationError, match="backoff returned"):
        task.apply().get()


def test_a_backoff_function_that_raises_fails_the_job_with_its_exception(app: Celery) -> None:
    def backoff(self: Any, attempt: int, exc: Exception) -> float:
        raise RuntimeError("of the backoff")

    with pytest.raises(RuntimeError, match="of the backoff"):
        job(app, OSError(), tries=3, backoff=backoff).apply().get()


def test_retry_until_takes_the_place_of_tries(app: Celery) -> None:
    task = job(app, *[OSError()] * 5, "done", tries=1, retry_until=timedelta(hours=1))
    assert task.apply().get() == "done"


@pytest.mark.parametrize("until", [datetime(2000, 1, 1, tzinfo=timezone.utc), timedelta(0)])
def test_a_deadline_that_has_passed_fails_the_job(app: Celery, until: Any) -> None:
    task = job(app, OSError(), retry_until=until)
    assert task.apply().state == "FAILURE"
    assert len(task.runs) <= 1


@pytest.mark.parametrize("wrong", ["tomorrow", None, datetime(2030, 1, 1), float("nan")])  # noqa: DTZ001
def test_a_retry_until_method_that_returns_nonsense_is_an_error_where_the_job_is_dispatched(
    app: Celery, wrong: Any
) -> None:
    task = job(app, "done", retry_until=lambda self: wrong)
    with pytest.raises(ConfigurationError, match="retry_until returned"):
        task.delay()


def test_middleware_wraps_every_attempt_and_knows_the_job(app: Celery) -> None:
    seen: list[Any] = []

    def log(job: Any, next: Any) -> Any:  # noqa: A002
        seen.append((job.name, job.attempts, job.arguments["n"]))
        return next(job)

    @app.task(name="x", bind=True, tries=2, middleware=[log])
    def x(self: Any, n: int) -> int:
        if self.attempts == 1:
            raise OSError
        return n

    assert x.apply((5,)).get() == 5
    assert seen == [("x", 1, 5), ("x", 2, 5)]


def test_middleware_may_end_the_attempt(app: Celery) -> None:
    task = job(app, "never", middleware=[lambda job, go_on: "instead"])
    assert task.apply().get() == "instead"
    assert task.runs == []


@pytest.mark.parametrize("returned", [None, []])
def test_a_middleware_method_may_return_none(app: Celery, returned: Any) -> None:
    assert job(app, "done", middleware=lambda self: returned).apply().get() == "done"


@pytest.mark.parametrize("returned", [5, [5], "x"])
def test_a_middleware_method_that_returns_nonsense_fails_the_job(app: Celery, returned: Any) -> None:
    with pytest.raises(ConfigurationError, match="middleware"):
        job(app, "done", tries=1, middleware=lambda self: returned).apply().get()


def test_an_exception_in_a_middleware_is_the_attempts(app: Celery) -> None:
    def broken(job: Any, next: Any) -> Any:  # noqa: A002
        raise LookupError("in the middleware")

    task = job(app, "never", tries=2, middleware=[broken])
    with pytest.raises(LookupError):
        task.apply().get()


def test_arguments_are_bound_to_names_without_self(app: Celery) -> None:
    seen: list[Any] = []

    @app.task(name="x", bind=True)
    def x(self: Any, user: int, *rest: int, force: bool = False) -> None:
        seen.append(dict(self.arguments))

    x.apply((1, 2), {"force": True})
    assert seen == [{"user": 1, "rest": (2,), "force": True}]


@pytest.mark.parametrize("member", ["attempts", "arguments", "batch"])
def test_what_only_a_running_job_knows_is_an_error_elsewhere(app: Celery, member: str) -> None:
    with pytest.raises(RuntimeError, match=f"{member} is known only while the job runs"):
        getattr(job(app, "done"), member)


@pytest.mark.parametrize("call", [lambda t: t.release(), lambda t: t.fail(), lambda t: t.delete()])
def test_speaking_up_outside_a_job_is_an_error(app: Celery, call: Any) -> None:
    with pytest.raises(RuntimeError, match="while the job runs"):
        call(job(app, "done"))


def test_a_job_in_no_batch_has_none(app: Celery) -> None:
    assert job(app, lambda self: self.batch).apply().get() is None


@pytest.mark.parametrize(("condition", "sent"), [(True, True), (0, False), (lambda: True, True), (list, False)])
def test_delay_if_and_delay_unless(app: Celery, heard: Any, condition: Any, sent: bool) -> None:
    task = job(app, "done")
    assert (task.delay_if(condition, 1) is not None) is sent
    assert (task.delay_unless(condition, 1) is not None) is not sent
    assert names(heard) == ["job_queueing", "job_queued"]


def test_dispatch_sync_returns_what_the_code_returns_after_its_middleware(app: Celery, heard: Any) -> None:
    task = job(
        app,
        lambda self: (self.attempts, self.request.args, current_job() is self),
        middleware=[lambda job, go_on: go_on(job)],
    )
    assert task.dispatch_sync(1, k=2) == (1, (1,), True)
    assert names(heard) == ["job_processing", "job_processed"]
    assert current_job() is None


def test_dispatch_sync_raises_what_the_code_raises_after_one_attempt_and_its_hook(app: Celery) -> None:
    seen: list[Any] = []
    task = job(app, OSError("it"), tries=5, failed=lambda self, exc: seen.append(exc))
    with pytest.raises(OSError, match="it"):
        task.dispatch_sync()
    assert task.runs == [1]
    assert [str(error) for error in seen] == ["it"]
    assert Bus(app).failed.count() == 0


def test_dispatch_sync_of_a_job_that_calls_fail_returns_after_its_hook(app: Celery) -> None:
    seen: list[Any] = []
    task = job(app, lambda self: self.fail("no"), failed=lambda self, exc: seen.append(str(exc)))
    assert task.dispatch_sync() is None
    assert seen == ["no"]


def test_dispatch_sync_of_a_job_that_releases_is_an_error_and_no_failure(app: Celery) -> None:
    task = job(app, lambda self: self.release(5), tries=3, failed=lambda *a: pytest.fail("called"))
    with pytest.raises(JobReleasedError) as caught:
        task.dispatch_sync()
    assert caught.value.delay == 5
    assert task.name in str(caught.value)


def test_dispatch_sync_within_a_job_leaves_the_outer_one_alone(app: Celery) -> None:
    inner = job(app, lambda self: (self.attempts, current_job() is self))

    def outer(self: Any) -> Any:
        return inner.dispatch_sync(), self.attempts, current_job() is self

    task = job(app, OSError(), outer, tries=2)
    assert task.apply().get() == ((1, True), 2, True)


def test_dispatch_sync_of_a_task_within_itself_takes_nothing_from_the_outer_ones_request(app: Celery) -> None:
    """Else it would hold the outer one's locks, and a retry of its failure would send what follows the outer one."""
    seen: list[tuple[Any, Any, Any]] = []

    def inside(self: Any) -> None:
        seen.append((self.request.callbacks, self.request.root_id, running_of(self).owner))
        if len(seen) == 1:
            self.dispatch_sync()

    task = job(app, inside, tries=1)
    task.apply(link=job(app, "after").si())
    outer, inner = seen
    assert outer[0] is not None
    assert inner[:2] == (None, None)
    assert inner[2] != outer[2]


def test_dispatch_sync_of_a_plain_task_is_a_call(app: Celery) -> None:
    @app.task(name="x")
    def x(n: int) -> int:
        return n

    assert x.dispatch_sync(5) == 5


def test_eager_dispatch_propagates_if_asked_to(make_app: Callable[..., Celery]) -> None:
    app = install(make_app(task_always_eager=True, task_eager_propagates=True))
    task = job(app, OSError("last"), tries=2)
    with pytest.raises(OSError, match="last"):
        task.delay()
    assert task.runs == [1, 2]


def test_a_jobs_default_tries_come_from_the_settings(make_app: Callable[..., Celery]) -> None:
    app = install(make_app(laravel_tries=2, laravel_backoff=[3]))
    task = job(app, OSError())
    assert task.apply().state == "FAILURE"
    assert task.runs == [1, 2]


def test_default_tries_are_not_for_a_task_that_celery_retries(make_app: Callable[..., Celery]) -> None:
    app = install(make_app(laravel_tries=5))
    task = job(app, OSError(), autoretry_for=(OSError,), max_retries=1, retry_backoff=0)
    assert task.apply().state == "FAILURE"
    assert len(task.runs) == 2


def test_a_message_with_a_damaged_header_fails_its_job_and_no_other(app: Celery) -> None:
    task = job(app, "done", tries=2)
    result = task.apply(headers={"laravel": {"v": 99}})
    assert result.state == "FAILURE"
    assert "version 99" in str(result.result)
    assert task.runs == []


def test_a_system_exit_is_not_an_outcome(app: Celery) -> None:
    task = job(app, SystemExit(3), tries=3)
    with pytest.raises(SystemExit):
        task.apply()
    assert task.runs == [1]


def test_a_retry_until_method_that_raises_fails_a_job_that_was_sent_by_its_name(app: Celery) -> None:
    """Its hook is told: `send_task` knows no options, so the deadline is first asked for where the job runs."""
    seen: list[str] = []

    def until(self: Any) -> Any:
        raise LookupError("no deadline")

    task = job(app, "never", retry_until=until, failed=lambda self, exc: seen.append(str(exc)))
    with pytest.raises(LookupError, match="no deadline"):
        task.apply().get()
    assert seen == ["no deadline"]
    assert task.runs == []
