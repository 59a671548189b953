from __future__ import annotations

from typing import Any

import pytest

from celery_laravel.attempt.retry_policy import Counts, Limits
from celery_laravel.attempt.running_job import RunningJob, bind_arguments
from celery_laravel.message.header import Header
from celery_laravel.message.options import JobOptions


def function(first: int, second: int = 2, *rest: int, key: str = "k", **others: Any) -> None:
    """Have every kind of parameter."""


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((1,), {}, {"first": 1, "second": 2, "rest": (), "key": "k"}),
        ((1, 5, 6), {"key": "x"}, {"first": 1, "second": 5, "rest": (6,), "key": "x"}),
        ((), {"first": 3, "other": 4}, {"first": 3, "second": 2, "rest": (), "key": "k", "other": 4}),
    ],
)
def test_arguments_by_name(args: tuple[Any, ...], kwargs: dict[str, Any], named: dict[str, Any]) -> None:
    assert bind_arguments(function, args, kwargs) == named


def test_arguments_are_for_reading() -> None:
    with pytest.raises(TypeError):
        bind_arguments(function, (1,), {})["first"] = 2  # type: ignore[index]


def test_arguments_that_do_not_fit_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="first"):
        bind_arguments(function, (), {})


@pytest.mark.parametrize(
    ("counts", "after_exception", "expected"), [(True, True, (3, 2)), (False, False, (2, 1)), (True, False, (3, 1))]
)
def test_the_next_turn_carries_what_lies_behind_it(
    counts: bool, after_exception: bool, expected: tuple[int, int]
) -> None:
    running = RunningJob("id", JobOptions(), Header(turn=4, serializer="pickle"), Counts(3, 1), Limits(deadline=9.0))
    header = running.put_back(counts=counts, after_exception=after_exception)
    assert (header.attempts, header.exceptions) == expected
    assert (header.turn, header.deadline, header.serializer) == (5, 9.0, "pickle")
