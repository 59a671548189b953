"""RateLimited: which jobs start, and when the others come back."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel import (
    ConfigurationError,
    JobReleasedError,
    Limit,
    MaxAttemptsExceededError,
    RateLimited,
    RateLimiter,
    signals,
)
from celery_laravel.middleware.rate_limited import PADDING
from tests.unit.middleware.limits.conftest import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.support.clock import Clock
    from tests.unit.middleware.limits.conftest import Calls, Worker


def test_jobs_beyond_the_limit_come_back_each_at_a_start_of_its_own(
    make_job: Callable[..., Any], worker: Worker, starts: list[Any]
) -> None:
    """Two deliveries for each that had to wait, one for each that had not, and none is late."""
    RateLimiter.define("search", lambda job: Limit.per_minute(2))
    job = make_job(RateLimited("search"))
    for number in range(7):
        job.delay(number)

    worker.work_until_idle()

    late = PADDING
    assert starts == [(0, 0), (1, 0), (2, 60 + late), (3, 60 + late), (4, 120 + late), (5, 120 + late), (6, 180 + late)]
    assert worker.deliveries == 2 + 2 * 5


def test_one_call_of_the_store_before_the_code_and_none_after(
    make_job: Callable[..., Any], worker: Worker, calls: Calls
) -> None:
    RateLimiter.define("search", lambda job: [Limit.per_second(5), Limit.per_minute(10).by(job.arguments["user"])])
    job = make_job(RateLimited("search"))
    job.delay()
    worker.work()
    assert calls == ["take"]


def test_no_limit_asks_the_store_for_nothing(
    make_job: Callable[..., Any], worker: Worker, calls: Calls, starts: list[Any]
) -> None:
    RateLimiter.define("search", lambda job: Limit.none() if job.arguments["user"] == "ada" else Limit.per_hour(1))
    job = make_job(RateLimited("search"))
    for number in range(3):
        job.delay(number)
    worker.work()
    assert len(starts) == 3
    assert calls == []


@pytest.mark.parametrize("limits", [[], [Limit.none()], [Limit.none(), Limit.none()]])
def test_a_list_without_limits_is_no_limit(
    make_job: Callable[..., Any], worker: Worker, calls: Calls, starts: list[Any], limits: list[Limit]
) -> None:
    RateLimiter.define("search", lambda job: limits)
    make_job(RateLimited("search")).delay()
    worker.work()
    assert len(starts) == 1
    assert calls == []


def test_a_refused_job_uses_up_none_of_its_limits(app: Celery, make_job: Callable[..., Any], worker: Worker) -> None:
    RateLimiter.define("search", lambda job: [Limit.per_minute(1).by(job.arguments["user"]), Limit.per_minute(9)])
    job = make_job(RateLimited("search", release_after=600))
    job.delay(1)
    job.delay(2)
    worker.work()
    assert counted(app, "search", "60:ada") == 1
    assert counted(app, "search") == 1


def test_limits_of_one_list_without_keys_do_not_fall_together(
    make_job: Callable[..., Any], worker: Worker, starts: list[Any]
) -> None:
    RateLimiter.define("search", [Limit.per_second(2), Limit.per_minute(3)])
    job = make_job(RateLimited("search"))
    for number in range(5):
        job.delay(number)
    worker.work_until_idle()
    assert [round(at) for _, at in starts] == [0, 0, 1, 60, 60]


def test_of_two_limits_with_the_same_length_and_key_the_lower_holds(
    make_job: Callable[..., Any], worker: Worker, starts: list[Any]
) -> None:
    RateLimiter.define("search", lambda job: [Limit.per_minute(3), Limit.per_minute(1), Limit.per_minute(2)])
    job = make_job(RateLimited("search"))
    for number in range(3):
        job.delay(number)
    worker.work()
    assert len(starts) == 1


def test_keys_are_counted_apart_and_so_are_limiters(
    app: Celery, make_job: Callable[..., Any], worker: Worker, starts: list[Any]
) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(1).by(job.arguments["user"]))
    RateLimiter.define("export", lambda job: Limit.per_minute(1).by(job.arguments["user"]))
    job = make_job(RateLimited("search", release=False))
    job.delay(1, user="ada"), job.delay(2, user="grace"), job.delay(3, user="ada")

    @app.task(middleware=[RateLimited("export", release=False)])
    def other(user: str) -> None:
        starts.append("export")

    other.delay("ada")
    worker.work()
    assert starts == [(1, 0), (2, 0), "export"]


def test_a_delay_of_its_own_replaces_the_wait_and_nothing_is_kept(
    app: Celery, make_job: Callable[..., Any], worker: Worker, time: Clock, starts: list[Any]
) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    job = make_job(RateLimited("search", release_after=timedelta(seconds=25)))
    job.delay(1), job.delay(2)
    worker.work()
    assert worker.delays == [25]
    time.now += 60
    assert counted(app, "search") == 0
    worker.work()
    assert [number for number, _ in starts] == [1, 2]


def test_without_release_the_job_is_skipped_and_done(
    app: Celery, make_job: Callable[..., Any], worker: Worker, time: Clock, starts: list[Any]
) -> None:
    done: list[str] = []
    signals.job_processed.connect(receiver := lambda task_id, **_: done.append(task_id))
    try:
        RateLimiter.define("search", lambda job: Limit.per_minute(1))
        job = make_job(RateLimited("search", release=False))
        ids = [job.delay(number).id for number in range(2)]
        worker.work_until_idle()
    finally:
        signals.job_processed.disconnect(receiver)
    assert len(starts) == 1
    assert done == ids
    time.now += 60
    assert counted(app, "search") == 0


@pytest.mark.parametrize(
    ("count_attempt", "setting", "attempts"), [(None, True, 2), (None, False, 1), (False, True, 1), (True, False, 2)]
)
def test_being_turned_away_uses_up_an_attempt_unless_it_is_said_otherwise(
    app: Celery, worker: Worker, count_attempt: bool | None, setting: bool, attempts: int
) -> None:
    app.conf.laravel_release_counts = setting
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    seen: list[int] = []

    @app.task(bind=True, tries=2, middleware=[RateLimited("search", count_attempt=count_attempt)])
    def job(self: Any) -> None:
        seen.append(self.attempts)

    job.delay(), job.delay()
    worker.work_until_idle()
    assert seen == [1, attempts]


def test_what_was_done_is_told_in_the_log_and_by_a_signal(
    make_job: Callable[..., Any], worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []

    def receive(action: str, delay: float, detail: str, **_: Any) -> None:
        told.append((action, round(delay), detail))

    signals.job_intercepted.connect(receive)
    RateLimiter.define("backups", lambda job: [Limit.per_minute(1).by(42), Limit.per_hour(9)])
    job = make_job(RateLimited("backups"))
    job.delay(), job.delay()
    with caplog.at_level(logging.DEBUG, "celery_laravel.middleware"):
        worker.work()
    signals.job_intercepted.disconnect(receive)
    assert told == [("released", 60, "key 42")]
    assert "] released for 60.005 s by RateLimited('backups'), key 42" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "name of a limiter"),
        ({"name": 7}, "name of a limiter"),
        ({"name": "x", "release_after": -1}, "release_after must be seconds"),
        ({"name": "x", "release_after": "60"}, "release_after must be seconds"),
        ({"name": "x", "release": "no"}, r"RateLimited\('x'\): release must be True or False; it is 'no'"),
        ({"name": "x", "count_attempt": 1}, "count_attempt must be True, False or None; it is 1"),
    ],
)
def test_options_of_the_wrong_kind_are_refused_at_once(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RateLimited(**options)


def test_a_definition_may_be_a_decorated_function_and_a_later_one_replaces_it(
    make_job: Callable[..., Any], worker: Worker, starts: list[Any]
) -> None:
    @RateLimiter.define("search")
    def search(job: Any) -> Limit:
        return Limit.per_minute(5)

    assert search(None) == Limit.per_minute(5)
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    job = make_job(RateLimited("search"))
    job.delay(), job.delay()
    worker.work()
    assert len(starts) == 1


def test_dispatch_sync_raises_with_the_delay_and_keeps_nothing(
    app: Celery, make_job: Callable[..., Any], time: Clock, calls: Calls
) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    job = make_job(RateLimited("search"))
    assert job.dispatch_sync() == "ran"
    time.now += 10
    with pytest.raises(JobReleasedError) as caught:
        job.dispatch_sync()
    assert caught.value.delay == pytest.approx(50 + PADDING)
    time.now += 50
    assert counted(app, "search") == 0
    assert calls[:2] == ["take", "take"]


def test_an_eager_job_that_is_refused_ends_like_any_that_is_always_put_back(
    app: Celery, make_job: Callable[..., Any], time: Clock
) -> None:
    """No time passes in eager mode, so its attempts are used up at once, and what was kept for it is given up."""
    RateLimiter.define("search", lambda job: Limit.per_minute(1))
    job = make_job(RateLimited("search"), tries=3)
    assert job.apply().result == "ran"
    assert isinstance(job.apply().result, MaxAttemptsExceededError)
    time.now += 60
    assert counted(app, "search") == 0
