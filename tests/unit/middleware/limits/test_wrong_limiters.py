"""RateLimited by limiters that are not there, raise, or give nonsense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Ignore

from celery_laravel import (
    ConfigurationError,
    Limit,
    LimiterError,
    RateLimited,
    RateLimiter,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.middleware.limits.conftest import Worker


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
