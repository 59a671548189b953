"""How often a job is tried: tries, exceptions, deadlines, backoff, releases."""

from __future__ import annotations

import builtins
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_laravel import (
    ConfigurationError,
    MaxAttemptsExceededError,
    install,
)
from tests.unit.job.scripted import job

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.matrix


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
