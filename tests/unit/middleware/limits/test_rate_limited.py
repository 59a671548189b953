"""RateLimited: which jobs start, when the others come back, and what becomes of starts that are not used."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Ignore
from celery.worker import state

from celery_laravel import (
    ConfigurationError,
    JobReleasedError,
    Limit,
    LimiterError,
    MaxAttemptsExceededError,
    RateLimited,
    RateLimiter,
    Release,
    Skip,
    signals,
)
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.middleware.rate_limited import PADDING
from celery_laravel.stores.factory import store_of
from celery_laravel.worker.request import JobRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.support.clock import Clock
    from tests.unit.middleware.limits.conftest import Calls, Worker


@pytest.fixture
def starts(time: Clock) -> list[Any]:
    """What each start of a job's code was for, and how long after the beginning."""
    return []


@pytest.fixture
def make_job(app: Celery, time: Clock, starts: list[Any]) -> Callable[..., Any]:
    """A function that makes a job behind middleware, which notes its starts."""
    beginning = time.now

    def make(*middleware: Any, **options: Any) -> Any:
        @app.task(name="job", middleware=list(middleware), **options)
        def job(number: int = 0, user: str = "ada") -> str:
            starts.append((number, round(time.now - beginning, 3)))
            return "ran"

        return job

    return make


def counted(app: Celery, name: str, key: str = "60:") -> int:
    return store_of(app).limits.look(f"limiter:{name}", key).count


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


# -- limiters that are wrong


def test_a_limiter_that_is_not_defined_is_an_error_that_names_those_that_are(
    make_job: Callable[..., Any], worker: Worker, starts: list[Any], failures: list[BaseException]
) -> None:
    RateLimiter.define("search", Limit.none())
    RateLimiter.define("export", Limit.none())
    make_job(RateLimited("serach")).delay()
    worker.work()
    assert starts == []
    assert isinstance(failures[0], ConfigurationError)
    assert "'serach' is not defined" in str(failures[0])
    assert "defined: 'export', 'search'" in str(failures[0])


@pytest.mark.parametrize("given", [None, 5, "none", [Limit.none(), None], Limit])
def test_a_limiter_that_gives_nonsense_is_an_error_that_names_it(
    make_job: Callable[..., Any], worker: Worker, starts: list[Any], failures: list[BaseException], given: Any
) -> None:
    RateLimiter.define("search", lambda job: given)
    make_job(RateLimited("search")).delay()
    worker.work()
    assert starts == []
    assert isinstance(failures[0], ConfigurationError)
    assert str(failures[0]).startswith(f"The limiter 'search' gave {given!r}")


def test_a_limiter_that_raises_is_an_error_that_names_it_and_keeps_the_cause(
    make_job: Callable[..., Any], worker: Worker, starts: list[Any], failures: list[BaseException]
) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(1).by(job.arguments["region"]))
    make_job(RateLimited("search")).delay()
    worker.work()
    assert starts == []
    assert isinstance(failures[0], LimiterError)
    assert failures[0].limiter == "search"
    assert str(failures[0]) == "The limiter 'search' raised KeyError('region')"
    assert isinstance(failures[0].__cause__, KeyError)


def test_a_limiter_that_makes_a_wrong_limit_is_an_error_that_names_both(
    make_job: Callable[..., Any], worker: Worker, failures: list[BaseException]
) -> None:
    RateLimiter.define("search", lambda job: Limit.per_minute(0))
    make_job(RateLimited("search")).delay()
    worker.work()
    assert isinstance(failures[0], ConfigurationError)
    assert "The limiter 'search': A limit allows a whole number of starts, 1 or more, not 0" in str(failures[0])


def test_celerys_own_signals_pass_through_a_limiter(
    make_job: Callable[..., Any], worker: Worker, starts: list[Any], failures: list[BaseException]
) -> None:
    def ignore(job: Any) -> Limit:
        raise Ignore

    RateLimiter.define("search", ignore)
    make_job(RateLimited("search")).delay()
    worker.work()
    assert (starts, failures) == ([], [])


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


# -- starts that are not used


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


# -- in the caller, and eagerly


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


# -- a store that does not answer


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
