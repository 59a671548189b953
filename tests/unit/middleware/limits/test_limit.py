from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from celery_laravel import ConfigurationError, Limit


@pytest.mark.parametrize(
    ("limit", "allowed", "seconds", "shown"),
    [
        (Limit.per_second(20), 20, 1, "Limit.per_second(20)"),
        (Limit.per_minute(5), 5, 60, "Limit.per_minute(5)"),
        (Limit.per_hour(1), 1, 3600, "Limit.per_hour(1)"),
        (Limit.per_day(1000), 1000, 86400, "Limit.per_day(1000)"),
        (Limit.per(30, 5), 5, 30, "Limit.per(30, 5)"),
        (Limit.per(0.5, 5), 5, 0.5, "Limit.per(0.5, 5)"),
        (Limit.per(timedelta(minutes=1), 5), 5, 60, "Limit.per_minute(5)"),
        (Limit.per_minute(5).by(42), 5, 60, "Limit.per_minute(5).by('42')"),
        (Limit.none(), None, 0, "Limit.none()"),
    ],
)
def test_a_limit_says_what_it_allows(limit: Limit, allowed: int | None, seconds: float, shown: str) -> None:
    assert (limit.allowed, limit.seconds) == (allowed, seconds)
    assert repr(limit) == shown
    assert eval(shown) == limit
    assert hash(eval(shown)) == hash(limit)


@pytest.mark.parametrize("allowed", [0, -1, 1.5, "5", True, float("nan")])
def test_a_number_that_is_not_whole_or_below_one_is_refused(allowed: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"whole number of starts, 1 or more, not .*Limit\.none\(\)"):
        Limit.per_minute(allowed)


@pytest.mark.parametrize("seconds", [0, -1, "60", None, True, float("inf"), float("nan"), timedelta(0), 1e-7])
def test_a_window_without_length_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigurationError, match="seconds above 0"):
        Limit.per(seconds, 5)


def test_a_key_makes_another_limit_and_leaves_the_first_as_it_was() -> None:
    limit = Limit.per_minute(5)
    assert limit.by(1) != limit.by(2)
    assert limit.by(1) == limit.by("1") == limit.by(1)
    assert limit.by(None) == limit == Limit.per_minute(5)
    assert limit.by(["a", 1]) == limit.by(("a", 1))


def test_limits_of_different_lengths_never_share_a_window() -> None:
    limits = [Limit.per_second(5), Limit.per_minute(5), Limit.per(0.5, 5), Limit.per_minute(5).by("x"), Limit.per(6, 5)]
    assert len({window.key for limit in limits for window in limit.windows()}) == len(limits)
    assert all(len(window.key) <= 255 for window in Limit.per(1e-5, 1).by("x" * 1000).windows())
    assert Limit.none().windows() == ()


def test_a_key_that_other_processes_would_not_understand_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be a key"):
        Limit.per_minute(5).by(object())
