"""RateLimited: the starts that are kept for refused jobs, and what becomes of those that are not used."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery.worker import state

from celery_laravel import (
    Limit,
    MaxAttemptsExceededError,
    RateLimited,
    RateLimiter,
    Release,
    Skip,
)
from celery_laravel.middleware.rate_limited import PADDING
from celery_laravel.worker.request import JobRequest
from tests.unit.middleware.limits.conftest import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.support.clock import Clock
    from tests.unit.middleware.limits.conftest import Calls, Worker


@pytest.mark.parametrize(
    "inner",
    [
        Skip.when(True),
        Release.when(True, delay=600),
        lambda job, _: job.fail("no"),
        lambda job, _: job.delete(),
        lambda job, _: 1 / 0,
    ],
)
def test_a_start_is_given_back_when_a_later_middleware_turns_the_job_away(
    app: Celery, make_job: Callable[..., Any], worker: Worker, calls: Calls, inner: Any
) -> None:
    RateLimiter.define("search", lambda job: [Limit.per_minute(1), Limit.per_hour(1).by(7)])
    make_job(RateLimited("search"), inner).delay()
    worker.work()
    assert calls == ["take", "give_back"]
    assert counted(app, "search") == 0
    assert counted(app, "search", "3600:7") == 0


@pytest.mark.parametrize("how", ["raises", "fails", "releases"])
def test_a_start_stays_counted_whatever_the_code_does(app: Celery, worker: Worker, calls: Calls, how: str) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(1))

    @app.task(bind=True, middleware=[RateLimited("search")])
    def job(self: Any) -> None:
        if how == "raises":
            raise ValueError
        self.fail() if how == "fails" else self.release(600)

    job.delay()
    worker.work()
    assert calls == ["take"]
    assert counted(app, "search") == 1


def test_a_start_that_is_kept_counts_at_its_own_time_and_is_granted_once(
    app: Celery, make_job: Callable[..., Any], worker: Worker, time: Clock, starts: list[Any]
) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    job = make_job(RateLimited("search"))
    job.delay(1), job.delay(2)
    worker.work()
    time.now += 60.5
    assert counted(app, "search") == 1
    job.delay(3)
    worker.work()
    assert [number for number, _ in starts] == [1, 2]
    worker.work_until_idle()
    assert starts[2:] == [(3, 120 + PADDING)]


def test_jobs_that_all_come_late_have_a_start_in_every_window_they_come_in(
    make_job: Callable[..., Any], worker: Worker, starts: list[Any]
) -> None:
    """Something holds each up for two windows when it comes back: what was kept for it has passed by then."""
    held_up: set[str] = set()

    def hold_up(job: Any, go_on: Callable[[Any], Any]) -> Any:
        if job.attempts < 2 or job.request.id in held_up:
            return go_on(job)
        held_up.add(job.request.id)
        return job.release(120)

    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    job = make_job(hold_up, RateLimited("search"), tries=0)
    for number in range(6):
        job.delay(number)
    worker.work_until_idle()
    late = PADDING
    assert starts == [(0, 0), *((number, 120 + 60 * number + late) for number in range(1, 6))]
    assert worker.deliveries == 1 + 3 * 5


def test_only_a_job_whose_start_was_kept_under_all_its_keys_is_overdue(
    make_job: Callable[..., Any], worker: Worker, time: Clock, starts: list[Any]
) -> None:
    """A job whose keys have changed is a newcomer under the new ones: it must not have what is kept for others."""
    keys = {1: "old", 2: "old", 3: "new", 4: "new"}
    RateLimiter.define("search", lambda job: Limit.per_minute(1).by(keys[job.arguments["number"]]))
    job = make_job(RateLimited("search"))
    for number in keys:
        job.delay(number)
    worker.work()
    keys[2] = "new"
    time.now += 61
    worker.work()
    assert [number for number, _ in starts] == [1, 3, 4]
    worker.work_until_idle()
    assert starts[3:] == [(2, 120 + PADDING)]


def test_a_job_that_comes_late_to_its_start_is_a_newcomer(
    make_job: Callable[..., Any], worker: Worker, time: Clock, starts: list[Any]
) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    job = make_job(RateLimited("search"))
    job.delay(1), job.delay(2)
    worker.work()
    job.delay(3)
    time.now += 130  # nobody was there to run them
    worker.work()
    assert starts == [(1, 0), (2, 130)]
    worker.work_until_idle()
    assert starts[2] == (3, 190 + PADDING)


@pytest.mark.parametrize("ending", ["tries", "deleted", "failed", "skipped"])
def test_a_kept_start_is_given_up_by_a_job_that_ends_without_coming_for_it(
    app: Celery, worker: Worker, time: Clock, ending: str
) -> None:
    """Else the next window would count a start that nobody makes."""
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    came: list[int] = []

    def end_it(job: Any, go_on: Any) -> Any:
        came.append(1)
        if len(came) <= 2 or ending == "tries":
            return go_on(job)
        return {"deleted": job.delete, "failed": job.fail, "skipped": lambda: None}[ending]()

    @app.task(tries=1 if ending == "tries" else 0, middleware=[end_it, RateLimited("search")])
    def job() -> None: ...

    job.delay(), job.delay()
    worker.work()
    time.now += 60
    assert counted(app, "search") == 1
    time.now += PADDING
    worker.work()
    assert counted(app, "search") == 0


def test_giving_up_what_is_kept_asks_only_for_jobs_that_have_something_kept(
    app: Celery, make_job: Callable[..., Any], worker: Worker, calls: Calls, failures: list[BaseException]
) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    job = make_job(RateLimited("search"), tries=1)
    job.delay(), job.delay()
    worker.work_until_idle()
    assert [type(error) for error in failures] == [MaxAttemptsExceededError]
    assert calls == ["take", "take", "cancel"]


def test_a_message_says_what_is_kept_for_its_job_until_it_is_granted(app: Celery, worker: Worker) -> None:
    RateLimiter.define("search", lambda job: [Limit.per_minute(1), Limit.per_hour(9).by(7)])

    @app.task(bind=True, middleware=[RateLimited("search")])
    def job(self: Any) -> None:
        if self.attempts == 2:
            self.release(1)

    job.delay(), job.delay()
    worker.work_until_idle()
    slots = [header and header.get("slots") for header in worker.headers]
    assert slots[:4] == [None, None, {"limiter:search": ["60:", "3600:7"]}, None]


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_job_that_is_revoked_or_expires_gives_up_what_is_kept_for_it(
    make_job: Callable[..., Any], worker: Worker, time: Clock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    job = make_job(RateLimited("search"))
    job.delay()
    waiting = job.apply_async(expires=datetime.now(timezone.utc) + timedelta(hours=1))
    worker.work()
    if how == "revoked":
        state.revoked.add(waiting.id)
    else:
        monkeypatch.setattr(JobRequest, "maybe_expire", lambda self: True)  # by Celery's clock it has not
    time.now += 60 + PADDING
    assert counted(job.app, "search") == 1
    worker.work()
    assert counted(job.app, "search") == 0


def test_a_job_under_two_limiters_never_counts_twice_in_the_first(
    app: Celery, make_job: Callable[..., Any], worker: Worker, time: Clock, starts: list[Any]
) -> None:
    RateLimiter.define("outer", lambda job: Limit.per_minute(5))
    RateLimiter.define("inner", lambda job: Limit.per_minute(1))
    job = make_job(RateLimited("outer"), RateLimited("inner"))
    job.delay(1), job.delay(2)
    worker.work()
    assert counted(app, "outer") == 1
    worker.work_until_idle()
    assert [number for number, _ in starts] == [1, 2]
    assert counted(app, "outer") == counted(app, "inner") == 1


def test_a_definition_that_changes_its_key_leaves_nothing_kept_behind(
    app: Celery, make_job: Callable[..., Any], worker: Worker, time: Clock
) -> None:
    key = ["a"]
    RateLimiter.define("search", lambda job: Limit.per_minute(1).by(key[0]))
    job = make_job(RateLimited("search"))
    job.delay(1), job.delay(2)
    worker.work()
    key[0] = "b"
    time.now += 60 + PADDING
    assert counted(app, "search", "60:a") == 1
    worker.work()
    assert counted(app, "search", "60:a") == 0
    assert counted(app, "search", "60:b") == 1
