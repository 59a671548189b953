"""The built-in middleware that decides by itself, without a store's locks or limits."""

from __future__ import annotations

import contextlib
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_laravel import (
    Bus,
    FailOnException,
    JobReleasedError,
    Release,
    Skip,
    SkipIfBatchCancelled,
    WithoutOverlapping,
    install,
    signals,
)
from celery_laravel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def app() -> Celery:
    app = Celery("middleware", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(laravel_store="memory://", task_always_eager=True)
    return install(app)


@pytest.fixture
def ran() -> list[Any]:
    return []


@pytest.mark.parametrize(
    ("middleware", "runs"),
    [
        (Skip.when(True), False),
        (Skip.when(False), True),
        (Skip.unless(True), True),
        (Skip.unless(False), False),
        (Skip.when(lambda: True), False),
        (Skip.when(lambda job: job.arguments["number"] == 7), False),
        (Skip.unless(lambda job: job.arguments["number"] == 7), True),
    ],
)
def test_a_job_is_skipped_by_value_callable_or_callable_of_the_job(
    app: Celery, ran: list[Any], middleware: Skip, runs: bool
) -> None:
    @app.task(middleware=[middleware])
    def job(number: int) -> str:
        ran.append(number)
        return "ran"

    result = job.delay(7)

    assert result.state == "SUCCESS"
    assert result.get() == ("ran" if runs else None)
    assert ran == ([7] if runs else [])


def test_what_a_condition_raises_is_the_exception_of_the_attempt(app: Celery, ran: list[Any]) -> None:
    def broken(job: Any) -> bool:
        raise LookupError(job.name)

    @app.task(middleware=[Skip.when(broken)])
    def job() -> None:
        ran.append(1)

    assert isinstance(job.delay().result, LookupError)
    assert ran == []


def test_members_of_a_cancelled_batch_are_skipped_and_counted_as_processed(app: Celery, ran: list[Any]) -> None:
    @app.task(bind=True)
    def first(self: Any) -> None:
        self.batch.cancel()

    @app.task(middleware=[SkipIfBatchCancelled()])
    def second() -> None:
        ran.append("second")

    batch = Bus(app).batch([first.s(), second.s()]).dispatch()

    assert ran == []
    assert batch.finished
    assert batch.cancelled
    assert (batch.processed_jobs, batch.failed_jobs, batch.skipped_jobs) == (2, 0, 0)


def test_a_job_outside_a_batch_is_not_skipped(app: Celery, ran: list[Any]) -> None:
    @app.task(middleware=[SkipIfBatchCancelled()])
    def job() -> None:
        ran.append("ran")

    job.delay()

    assert ran == ["ran"]


@pytest.mark.parametrize(
    ("make", "delay"), [(lambda: Release.when(True, 30), 30), (lambda: Release.unless(False, timedelta(minutes=1)), 60)]
)
def test_a_job_is_released_before_its_code_runs(
    app: Celery, ran: list[Any], make: Callable[[], Release], delay: float
) -> None:
    @app.task(tries=2, middleware=[make()])
    def job() -> None:
        ran.append(1)

    with pytest.raises(JobReleasedError) as caught:
        job.dispatch_sync()

    assert caught.value.delay == delay
    assert ran == []


def test_a_job_that_need_not_wait_is_not_released(app: Celery, ran: list[Any]) -> None:
    @app.task(middleware=[Release.when(lambda: False, 30)])
    def job() -> None:
        ran.append(1)

    job.dispatch_sync()

    assert ran == [1]


async def later(*_: Any) -> bool:
    return True


@pytest.mark.parametrize("delay", [-1, "soon", float("nan"), timedelta(seconds=-1)])
def test_a_release_refuses_a_delay_that_is_none(delay: Any) -> None:
    with pytest.raises(ValueError, match="delay must be seconds or a timedelta"):
        Release.when(True, delay)


@pytest.mark.parametrize(
    ("matching", "error", "attempts"),
    [
        ((ValueError,), ValueError("x"), 1),
        ((ValueError,), UnicodeError("x"), 1),
        ((ValueError,), KeyError("x"), 3),
        ((KeyError, lambda exc: "gone" in str(exc)), OSError("it is gone"), 1),
        ((lambda exc: False,), OSError("x"), 3),
    ],
)
def test_a_matching_exception_fails_the_job_whatever_tries_allows(
    app: Celery, ran: list[Any], matching: Any, error: Exception, attempts: int
) -> None:
    @app.task(bind=True, tries=3, middleware=[FailOnException(*matching)])
    def job(self: Any) -> None:
        ran.append(self.attempts)
        raise error

    result = job.delay()

    assert result.result is error
    assert ran == list(range(1, attempts + 1))


@pytest.mark.parametrize(
    "matching", [(), ("ValueError",), (int,), (ValueError, 3), ([ValueError, KeyError],), (later,)]
)
def test_what_is_neither_a_type_nor_a_predicate_is_refused(matching: Any) -> None:
    with pytest.raises(TypeError, match="FailOnException"):
        FailOnException(*matching)


def test_celerys_own_retry_is_no_exception_to_fail_on(app: Celery, ran: list[Any], caplog: Any) -> None:
    @app.task(bind=True, max_retries=1, default_retry_delay=0, middleware=[FailOnException(Exception)])
    def job(self: Any) -> None:
        ran.append(self.request.retries)
        if not self.request.retries:
            raise self.retry()

    with caplog.at_level(logging.DEBUG, "celery_laravel.middleware"):
        assert job.delay().state == "SUCCESS"
    assert (ran, caplog.messages) == ([0, 1], [])


@pytest.mark.parametrize("make", [Skip.when, Skip.unless, Release.when, Release.unless])
def test_an_async_condition_is_refused_as_it_would_always_hold(make: Any) -> None:
    with pytest.raises(ConfigurationError, match="the condition must be a plain function, not an async one"):
        make(later)


@pytest.mark.parametrize("returned", [[WithoutOverlapping], WithoutOverlapping(), [1], "log", [later]])
def test_what_a_method_returns_has_to_be_a_list_of_middleware(app: Celery, ran: list[Any], returned: Any) -> None:
    """A class would be called with the job and the next step, and be taken for a middleware that skips."""

    @app.task(middleware=lambda task: returned)
    def job() -> None:
        ran.append(1)

    error = job.delay().result

    assert isinstance(error, ConfigurationError)
    assert "instances and not classes" in str(error)
    assert ran == []


def test_a_class_in_place_of_an_instance_is_refused_when_the_task_is_registered(app: Celery) -> None:
    @app.task(middleware=[SkipIfBatchCancelled])
    def job() -> None:
        """Never run."""

    with pytest.raises(ConfigurationError, match=r"middleware must be .* instances and not classes"):
        job.delay()


def test_the_log_says_at_debug_level_who_turned_a_job_away(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="pick", middleware=[Release.when(True, 12)])
    def job() -> None:
        """Never run."""

    with caplog.at_level(logging.DEBUG, "celery_laravel.middleware"), pytest.raises(JobReleasedError):
        job.dispatch_sync()

    assert any("released for 12 s by Release.when(True, delay=12)" in record.getMessage() for record in caplog.records)


def by_skipping(job: Any, next: Any) -> str:  # noqa: A002
    return "skipped"


def by_release(job: Any, next: Any) -> None:  # noqa: A002
    job.release(12)


def by_catching(job: Any, next: Any) -> None:  # noqa: A002
    try:
        next(job)
    except OSError:
        job.release(3)


def by_failing(job: Any, next: Any) -> None:  # noqa: A002
    job.fail("no")


def by_deleting_afterwards(job: Any, next: Any) -> Any:  # noqa: A002
    value = next(job)
    job.delete()
    return value


def by_nothing(job: Any, next: Any) -> Any:  # noqa: A002
    return next(job)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (by_skipping, ("skipped", None)),
        (by_release, ("released", 12.0)),
        (by_catching, ("released", 3.0)),
        (by_failing, ("failed", None)),
        (by_deleting_afterwards, ("deleted", None)),
        (by_nothing, None),
    ],
)
def test_what_a_middleware_of_the_users_did_is_told_too(
    app: Celery, caplog: pytest.LogCaptureFixture, layer: Any, told: Any
) -> None:
    seen: list[Any] = []

    @app.task(name="pick", middleware=[by_nothing, layer, by_nothing])
    def job() -> None:
        if layer is by_catching:
            raise OSError

    def receiver(middleware: Any, action: str, delay: Any, **_: Any) -> None:
        seen.append((middleware, action, delay))

    signals.job_intercepted.connect(receiver)
    try:
        with caplog.at_level(logging.DEBUG, "celery_laravel.middleware"), contextlib.suppress(JobReleasedError):
            job.dispatch_sync()
    finally:
        signals.job_intercepted.disconnect(receiver)

    assert seen == ([] if told is None else [(layer, *told)])
    assert [layer.__name__ in line for line in caplog.messages] == ([] if told is None else [True])


def test_what_the_code_itself_says_is_not_told_of_its_middleware(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(bind=True, name="pick", middleware=[by_nothing])
    def job(self: Any) -> None:
        self.fail("no")

    with caplog.at_level(logging.DEBUG, "celery_laravel.middleware"):
        job.dispatch_sync()

    assert caplog.messages == []


def test_a_signal_says_who_turned_a_job_away(app: Celery) -> None:
    layer = Release.when(True, 12)
    seen: list[dict[str, Any]] = []

    @app.task(name="pick", middleware=[layer])
    def job(order_id: int) -> None:
        """Never run."""

    def receiver(sender: Any, **details: Any) -> None:
        seen.append({"sender": sender.name, **details})

    signals.job_intercepted.connect(receiver)
    try:
        with pytest.raises(JobReleasedError):
            job.dispatch_sync(7)
    finally:
        signals.job_intercepted.disconnect(receiver)

    (details,) = seen
    assert (details["sender"], details["middleware"], details["action"], details["delay"]) == (
        "pick",
        layer,
        "released",
        12.0,
    )
    assert tuple(details["args"]) == (7,)
