"""Exceptions that are counted, and jobs that wait when there were too many."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from celery_laravel import (
    ConfigurationError,
    JobReleasedError,
    JobTimedOutError,
    MaxAttemptsExceededError,
    ThrottlesExceptions,
    install,
    signals,
)
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from tests.support.clock import Clock

NAME = "throttles_exceptions"


@pytest.fixture
def app(make_app: Callable[..., Celery], time: Clock) -> Celery:
    return install(make_app(task_always_eager=True))


@pytest.fixture
def exceptions() -> Iterator[list[BaseException]]:
    """The exceptions of attempts, as `job_exception_occurred` tells them."""
    seen: list[BaseException] = []

    def receive(exception: BaseException, **_: Any) -> None:
        seen.append(exception)

    signals.job_exception_occurred.connect(receive)
    yield seen
    signals.job_exception_occurred.disconnect(receive)


def _counting(calls: list[str], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return call(*args, **kwargs)

    return counted


def count(app: Celery, key: str = "task:job") -> int:
    return store_of(app).limits.look(NAME, key).count


def make_job(app: Celery, middleware: ThrottlesExceptions, name: str = "job", **options: Any) -> Any:
    """A task whose argument is what it raises."""

    @app.task(name=name, middleware=[middleware], **options)
    def job(error: BaseException | None = None) -> str:
        if error is not None:
            raise error
        return "ran"

    return job


def delay_of(job: Any, *args: Any) -> float:
    """For how long a job is put back."""
    with pytest.raises(JobReleasedError) as caught:
        job.dispatch_sync(*args)
    return float(caught.value.delay)


def test_an_exception_is_counted_and_the_job_comes_back_after_the_backoff(
    app: Celery, exceptions: list[BaseException]
) -> None:
    job = make_job(app, ThrottlesExceptions(3, decay=600, backoff=timedelta(minutes=1)))

    assert delay_of(job, OSError()) == 60
    assert count(app) == 1
    assert exceptions == []


def test_after_too_many_exceptions_jobs_wait_until_the_window_ends_and_three_seconds(app: Celery, time: Clock) -> None:
    job = make_job(app, ThrottlesExceptions(2, decay=300))

    assert [delay_of(job, OSError()) for _ in range(2)] == [0, 0]
    time.now += 100
    assert delay_of(job) == 203
    time.now += 203
    assert job.dispatch_sync() == "ran"


def test_a_success_clears_the_count_and_costs_nothing_where_there_is_none(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    limits = store_of(app).limits
    for name in ("look", "hit", "clear"):
        monkeypatch.setattr(limits, name, _counting(calls, name, getattr(limits, name)))
    job = make_job(app, ThrottlesExceptions(2))

    assert job.dispatch_sync() == "ran"
    assert calls == ["look"]
    delay_of(job, OSError())
    assert job.dispatch_sync() == "ran"
    assert calls == ["look", "look", "hit", "look", "clear"]
    assert delay_of(job, OSError()) == 0


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, "task:job"),
        ({"by": "partner"}, "by:partner"),
        ({"by": lambda job: job.name.upper()}, "by:JOB"),
        ({"by": ["a", "b"]}, 'by:["a", "b"]'),
    ],
)
def test_what_is_counted_together(app: Celery, options: dict[str, Any], key: str) -> None:
    delay_of(make_job(app, ThrottlesExceptions(2, **options)), OSError())

    assert count(app, key) == 1


def test_tasks_with_the_same_by_share_a_count_and_others_do_not(app: Celery) -> None:
    first = make_job(app, ThrottlesExceptions(1, by="partner"), "first")
    second = make_job(app, ThrottlesExceptions(1, by="partner"), "second")
    other = make_job(app, ThrottlesExceptions(1), "other")

    delay_of(first, OSError())

    assert delay_of(second) > 0
    assert other.dispatch_sync() == "ran"


def test_every_job_may_have_a_count_of_its_own(app: Celery) -> None:
    job = make_job(app, ThrottlesExceptions(1, by_job=True))

    delay_of(job, OSError())

    assert job.dispatch_sync() == "ran"


@pytest.mark.parametrize(
    "when", [OSError, (KeyError, OSError), {KeyError, OSError}, lambda error: isinstance(error, OSError)]
)
def test_what_is_not_throttled_is_the_attempts_exception(
    app: Celery, exceptions: list[BaseException], when: Any
) -> None:
    job = make_job(app, ThrottlesExceptions(3, when=when))

    assert delay_of(job, TimeoutError()) == 0
    with pytest.raises(ValueError, match="wrong"):
        job.dispatch_sync(ValueError("wrong"))
    assert count(app) == 1
    assert [type(error) for error in exceptions] == [ValueError]


def test_a_job_may_be_deleted_or_failed_by_an_exception(app: Celery, exceptions: list[BaseException]) -> None:
    failed: list[BaseException] = []
    middleware = ThrottlesExceptions(3, delete_when=KeyError, fail_when=lambda error: isinstance(error, ValueError))
    job = make_job(app, middleware, tries=5, failed=lambda job, error, *_: failed.append(error))

    assert job.apply((KeyError(),)).state == "SUCCESS"
    assert failed == []
    wrong = ValueError("wrong")
    assert job.apply((wrong,)).state == "FAILURE"
    assert failed == [wrong]
    assert (count(app), exceptions) == (0, [])


def test_throttled_exceptions_do_not_feed_max_exceptions_but_attempts_are_used_up(app: Celery) -> None:
    job = make_job(app, ThrottlesExceptions(100), tries=4, max_exceptions=1)

    assert isinstance(job.apply((OSError(),)).result, MaxAttemptsExceededError)
    assert count(app) == 4


def test_a_timeout_is_the_jobs_own_affair(app: Celery, exceptions: list[BaseException]) -> None:
    """A timeout that was throttled would hide `fail_on_timeout` and send no `job_timed_out`."""
    job = make_job(app, ThrottlesExceptions(3), tries=5, timeout=10, fail_on_timeout=True)

    assert isinstance(job.apply((SoftTimeLimitExceeded(),)).result, JobTimedOutError)
    assert count(app) == 0


def test_a_mistake_in_the_configuration_is_not_waited_for(app: Celery) -> None:
    job = make_job(app, ThrottlesExceptions(3), tries=5)

    with pytest.raises(ConfigurationError, match="typo"):
        job.dispatch_sync(ConfigurationError("typo"))


def test_celerys_own_retry_passes(app: Celery) -> None:
    runs: list[int] = []

    @app.task(name="job", bind=True, max_retries=2, default_retry_delay=0, middleware=[ThrottlesExceptions(3)])
    def job(self: Any) -> None:
        runs.append(self.request.retries)
        if self.request.retries < 2:
            raise self.retry()

    assert job.delay().state == "SUCCESS"
    assert runs == [0, 1, 2]
    assert count(app) == 0


def _raises(error: BaseException) -> Any:
    raise LookupError("in report")


@pytest.mark.parametrize(
    ("report", "logged"),
    [
        (None, ""),
        (False, ""),
        (True, "is throttled by ThrottlesExceptions(3, decay=600)"),
        (lambda error: True, "is throttled by"),
        (lambda error: "seen", ""),
        (_raises, "report of ThrottlesExceptions(3, decay=600) raised"),
    ],
)
def test_throttled_exceptions_are_reported_on_demand(
    app: Celery, caplog: pytest.LogCaptureFixture, report: Any, logged: str
) -> None:
    job = make_job(app, ThrottlesExceptions(3, report=report))

    with caplog.at_level(logging.WARNING):
        delay_of(job, OSError("the cause"))

    assert ("OSError: the cause" in caplog.text) is bool(logged)
    assert logged in caplog.text


def test_a_callable_report_is_given_the_exception(app: Celery) -> None:
    seen: list[BaseException] = []
    error = OSError()

    delay_of(make_job(app, ThrottlesExceptions(3, report=seen.append)), error)

    assert seen == [error]


def test_without_its_store_the_job_does_not_run(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(store_of(app).limits, "look", fail)

    with pytest.raises(StoreUnavailableError):
        make_job(app, ThrottlesExceptions(3)).dispatch_sync()


@pytest.mark.parametrize("call", ["hit", "clear"])
def test_a_store_that_is_gone_after_the_code_changes_no_outcome(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    job = make_job(app, ThrottlesExceptions(3))
    delay_of(job, OSError())

    def fail(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(store_of(app).limits, call, fail)
    if call == "hit":
        assert delay_of(job, OSError()) == 0
    else:
        assert job.dispatch_sync() == "ran"
    assert "gone" in caplog.text


async def later(_: Any) -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 0}, "max_attempts must be a whole number above 0; it is 0"),
        ({"max_attempts": True}, "max_attempts must be"),
        ({"decay": 0}, "decay must be above 0 seconds"),
        ({"decay": "long"}, "decay must be seconds or a timedelta"),
        ({"backoff": -1}, "backoff must be seconds or a timedelta, not negative; it is -1"),
        ({"by": "x", "by_job": True}, "contradict each other"),
        ({"when": ""}, "when must be an exception type, several, or a predicate"),
        ({"when": "OSError"}, "when must be an exception type, several, or a predicate"),
        ({"delete_when": [int]}, "delete_when must be"),
        ({"fail_when": 7}, "fail_when must be"),
        ({"fail_when": False}, "fail_when must be"),
        ({"report": "yes"}, "report must be"),
        ({"by_job": "order"}, "by_job must be True or False; it is 'order'"),
        ({"when": later}, "when must be a plain function, not an async one"),
        ({"fail_when": later}, "fail_when must be a plain function"),
        ({"report": later}, "report must be a plain function"),
        ({"by": later}, "by must be a plain function"),
        ({"by": object()}, "by = <object object at .*cannot be a key"),
    ],
)
def test_wrong_options_are_refused_when_it_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ThrottlesExceptions(**options)
