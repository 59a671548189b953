"""RateLimited while the store does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel import (
    Limit,
    RateLimited,
    RateLimiter,
    Skip,
)
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.unit.middleware.limits.conftest import Worker


@pytest.fixture
def broken_take(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(*args: Any, **options: Any) -> Any:
        raise StoreUnavailableError("redis://here", "down")

    monkeypatch.setattr(store_of(app).limits, "take", take)


@pytest.mark.usefixtures("broken_take")
def test_a_job_waits_free_of_charge_while_the_store_is_away(
    make_job: Callable[..., Any], worker: Worker, starts: list[Any], failures: list[BaseException]
) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    make_job(RateLimited("search"), tries=1).delay()
    worker.work()
    assert (starts, failures) == ([], [])
    assert len(worker.delays) == 1
    assert 5 <= worker.delays[0] <= 15


@pytest.mark.usefixtures("broken_take")
@pytest.mark.parametrize("how", ["sync", "eager"])
def test_without_a_queue_to_wait_in_the_error_is_raised(make_job: Callable[..., Any], how: str) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    job = make_job(RateLimited("search"))
    with pytest.raises(StoreUnavailableError):
        job.dispatch_sync() if how == "sync" else job.apply(throw=True)


def test_a_start_that_cannot_be_given_back_changes_no_outcome(
    app: Celery,
    make_job: Callable[..., Any],
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def give_back(*args: Any, **options: Any) -> Any:
        raise StoreUnavailableError("redis://here", "down")

    monkeypatch.setattr(store_of(app).limits, "give_back", give_back)
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    job = make_job(RateLimited("search"), Skip.when(True))
    result = job.delay()
    worker.work()
    assert app.AsyncResult(result.id).state == "SUCCESS"
    assert "could not give its start back" in caplog.text


def test_an_outage_inside_the_code_is_the_jobs_own_affair(
    app: Celery, worker: Worker, failures: list[BaseException]
) -> None:
    RateLimiter.define("search", lambda job: Limit.none())

    @app.task(middleware=[RateLimited("search")])
    def job() -> None:
        raise StoreUnavailableError("redis://elsewhere")

    job.delay()
    worker.work()
    assert isinstance(failures[0], StoreUnavailableError)
