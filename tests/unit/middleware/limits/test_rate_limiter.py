"""Limits outside of jobs, and the register of limiters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel import ConfigurationError, Limit, RateLimiter
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.clock import Clock
    from tests.unit.middleware.limits.conftest import Calls


def test_attempts_are_granted_up_to_the_limit_and_again_when_the_window_has_ended(app: Celery, time: Clock) -> None:
    logins, limit = RateLimiter.for_app(app), Limit.per_minute(3)

    assert [logins.attempt("ada", limit) for _ in range(5)] == [True, True, True, False, False]
    time.now += 20
    assert logins.available_in("ada") == pytest.approx(40)
    assert logins.attempt("grace", limit)
    time.now += 40
    assert logins.available_in("ada") == 0
    assert logins.attempt("ada", limit)


def test_looking_counts_nothing(app: Celery) -> None:
    logins, limit = RateLimiter.for_app(app), Limit.per_minute(2)

    assert not logins.too_many("ada", limit)
    assert logins.remaining("ada", limit) == 2
    assert logins.attempt("ada", limit)
    assert logins.remaining("ada", limit) == 1
    assert logins.attempt("ada", limit)
    assert logins.too_many("ada", limit)
    assert logins.remaining("ada", limit) == 0


def test_a_hit_is_counted_whatever_the_limit_and_all_are_forgotten_by_clear(app: Celery) -> None:
    logins, limit = RateLimiter.for_app(app), Limit.per_minute(2)

    assert [logins.hit("ada", limit) for _ in range(3)] == [1, 2, 3]
    assert logins.remaining("ada", limit) == 0
    assert logins.clear("ada")
    assert not logins.too_many("ada", limit)
    assert not logins.clear("ada")
    assert logins.available_in("ada") == 0


def test_no_limit_asks_the_store_for_nothing(app: Celery, calls: Calls) -> None:
    logins = RateLimiter.for_app(app)
    assert all(logins.attempt("ada", Limit.none()) for _ in range(3))
    assert not logins.too_many("ada", Limit.none())
    assert logins.hit("ada", Limit.none()) == 0
    assert calls == []


def test_each_question_is_one_call_of_the_store(app: Celery, calls: Calls) -> None:
    logins, limit = RateLimiter.for_app(app), Limit.per_minute(2)
    logins.attempt("ada", limit), logins.too_many("ada", limit), logins.hit("ada", limit)
    logins.available_in("ada"), logins.clear("ada")
    assert calls == ["take", "look", "hit", "look", "clear"]


def test_keys_may_be_tuples_and_are_not_those_of_a_limiter_or_another_app(app: Celery, make_app: Any) -> None:
    limit = Limit.per_minute(1)
    assert RateLimiter.for_app(app).attempt(("login", 7), limit)
    assert not RateLimiter.for_app(app).attempt(["login", 7], limit)
    assert RateLimiter.for_app(app).attempt(("login", 8), limit)
    assert RateLimiter.for_app(make_app()).attempt(("login", 7), limit)
    windows = limit.by(("login", 7)).windows()
    assert store_of(app).limits.take("limiter:attempts", windows).granted


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (Limit.per_minute(1).by("x"), r"has a key of its own, beside 'ada'. Leave .by\(\) out"),
        (5, "5 is no Limit"),
        (None, "None is no Limit"),
        ([Limit.per_minute(1)], "is no Limit"),
    ],
)
def test_outside_of_jobs_there_is_one_limit_without_a_key_of_its_own(app: Celery, limit: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RateLimiter.for_app(app).attempt("ada", limit)


@pytest.mark.parametrize("name", ["", None, 7, "x" * 201, "two\nlines"])
def test_a_limiter_needs_a_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="1 to 200 characters"):
        RateLimiter.define(name, Limit.none())


@pytest.mark.parametrize("callback", [5, "search", [1], {}])
def test_what_can_never_be_a_limit_is_refused_when_it_is_defined(callback: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'search'.*neither a Limit nor a list"):
        RateLimiter.define("search", callback)


def test_an_async_definition_is_refused_when_it_is_made() -> None:
    with pytest.raises(ConfigurationError, match=r"define\('search'\): the callback must be a plain function"):

        @RateLimiter.define("search")
        async def search(_: Any) -> Any: ...


def test_what_is_no_app_is_refused() -> None:
    with pytest.raises(TypeError, match="that is no Celery app"):
        RateLimiter.for_app("shop")
