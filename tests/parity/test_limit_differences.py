"""The deliberate differences from Laravel in limits, one by one, as a user would notice them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.parity.conftest import Play
from tests.parity.scenario import Scenario
from tests.parity.scenes import DRAIN, STORES, advance, dispatch, failures, handled, scenario, waiting, work

PER_MINUTE = {"one": {"max": 1}, "two": {"max": 2}, "other": {"max": 1}}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def limited(name: str = "one", **options: Any) -> dict[str, Any]:
    return {"type": "rate_limited", "limiter": name, **options}


def jobs_under(limiters: dict[str, Any], jobs: dict[str, Any], *steps: dict[str, Any]) -> Scenario:
    """Jobs of nine tries each, which is enough for them to wait."""
    return scenario({label: {"tries": 9, **job} for label, job in jobs.items()}, *steps, limiters=limiters)


# -- 14: all limits of a job are taken, or none; what does not start is not counted


def test_a_job_that_one_limit_refuses_uses_up_none_of_the_others(play: Play, store: str) -> None:
    both = [{"max": 2, "by": "all"}, {"max": 1, "by": "data.user"}]
    users = {"A": "u1", "B": "u1", "C": "u2"}
    jobs = {label: {"data": {"user": user}, "middleware": [limited("lim")]} for label, user in users.items()}
    played = play(jobs_under({"lim": both}, jobs, *dispatch("A", "B", "C"), work()), store)
    assert handled(played) == ["A", "C"]
    assert played["released"] == [("B", 60.0)]


def test_a_job_that_the_second_limiter_refuses_gives_its_start_under_the_first_back(play: Play, store: str) -> None:
    jobs = {
        "A": {"middleware": [limited("other")]},
        "B": {"middleware": [limited("two"), limited("other")]},
        "C": {"middleware": [limited("two")]},
        "D": {"middleware": [limited("two")]},
    }
    played = play(jobs_under(PER_MINUTE, jobs, *dispatch("A", "B", "C", "D"), work()), store)
    assert handled(played) == ["A", "C", "D"]
    assert played["released"] == [("B", 60.0)]


@pytest.mark.parametrize(
    "layer", [{"type": "skip"}, {"type": "delete"}, {"type": "release", "seconds": 500}, {"type": "fail", "exc": "E"}]
)
def test_a_start_that_another_middleware_turns_away_is_not_counted(
    layer: dict[str, Any], play: Play, store: str
) -> None:
    jobs = {"A": {"middleware": [limited(), layer]}, "B": {"middleware": [limited()]}}
    assert handled(play(jobs_under(PER_MINUTE, jobs, *dispatch("A", "B"), work()), store)) == ["B"]


def test_a_start_whose_code_raised_is_counted(play: Play, store: str) -> None:
    jobs = {"A": {"tries": 1, "middleware": [limited()], "script": ["raise:E1"]}, "B": {"middleware": [limited()]}}
    played = play(jobs_under(PER_MINUTE, jobs, *dispatch("A", "B"), work()), store)
    assert handled(played) == ["A"]
    assert played["released"] == [("B", 60.0)]


# -- 15: each waits for a start of its own


def test_each_job_that_is_refused_is_told_the_start_that_is_kept_for_it(play: Play, store: str) -> None:
    jobs = {label: {"middleware": [limited()]} for label in "ABCD"}
    played = play(jobs_under(PER_MINUTE, jobs, *dispatch("A", "B", "C", "D"), DRAIN), store)
    assert played["released"] == [("B", 60.0), ("C", 120.0), ("D", 180.0)]
    assert [(label, attempt) for label, attempt, _ in played["handle"]] == [("A", 1), ("B", 2), ("C", 2), ("D", 2)]


def test_a_start_that_is_kept_for_a_job_is_free_when_the_job_will_not_come(play: Play, store: str) -> None:
    jobs = {"A": {"middleware": [limited()]}, "B": {"tries": 1, "middleware": [limited()]}}
    jobs["C"] = {"middleware": [limited()]}
    steps = [*dispatch("A", "B"), work(), advance(60), work(), *dispatch("C"), work()]
    played = play(jobs_under(PER_MINUTE, jobs, *steps), store)
    assert handled(played) == ["A", "C"]
    assert failures(played) == [("B", "MaxAttemptsExceededError")]


def test_a_job_that_comes_too_late_for_its_start_never_makes_one_too_many(play: Play, store: str) -> None:
    jobs = {label: {"middleware": [limited()]} for label in "ABC"}
    steps = [*dispatch("A", "B"), work(), advance(130), *dispatch("C"), work(max_jobs=2)]
    played = play(jobs_under(PER_MINUTE, jobs, *steps), store)
    assert len(handled(played)) == 2
    assert waiting(played) == 1


# -- 13, and a limiter's release=False


def test_dispatch_sync_of_a_job_that_a_limit_refuses_raises_and_nothing_is_kept_for_it(play: Play, store: str) -> None:
    jobs = {label: {"middleware": [limited()]} for label in "ABC"}
    steps = [*dispatch("A"), work(), {"op": "dispatch_sync", "job": "B"}, *dispatch("C"), DRAIN]
    played = play(jobs_under(PER_MINUTE, jobs, *steps), store)
    assert played["raised_to_caller"] == [("JobReleasedError",)]
    assert handled(played) == ["A", "C"]
    assert played["released"] == [("C", 60.0)]


def test_a_refused_job_that_is_not_to_be_released_is_done(play: Play, store: str) -> None:
    jobs = {"A": {"middleware": [limited()]}, "B": {"middleware": [limited(release=False)]}, "C": {}}
    steps = [*dispatch("A"), {"op": "chain", "jobs": ["B", "C"]}, DRAIN]
    assert handled(play(jobs_under(PER_MINUTE, jobs, *steps), store)) == ["A", "C"]


# -- 21: a limiter that is not defined


def test_a_limiter_that_is_not_defined_fails_the_attempt(play: Play, store: str) -> None:
    jobs = {"A": {"tries": 2, "middleware": [limited("nobody defined this")]}}
    played = play(jobs_under(PER_MINUTE, jobs, *dispatch("A"), DRAIN), store)
    assert played["exception"] == {("A", "ConfigurationError"): 2}
    assert failures(played) == [("A", "ConfigurationError")]
    assert "handle" not in played
