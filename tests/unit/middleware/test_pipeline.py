from __future__ import annotations

import builtins
from typing import Any

import pytest

from celery_laravel.middleware.pipeline import send_through


def log(seen: list[str], name: str) -> Any:
    def layer(job: Any, next: Any) -> Any:  # noqa: A002
        seen.append(f"{name} before")
        value = next(job)
        seen.append(f"{name} after")
        return value

    return layer


def test_the_first_middleware_is_outermost() -> None:
    seen: list[str] = []

    def code(job: Any) -> int:
        seen.append(job)
        return 5

    assert send_through([log(seen, "a"), log(seen, "b")], "job", code) == 5
    assert seen == ["a before", "b before", "job", "b after", "a after"]


def test_without_middleware_there_is_just_the_code() -> None:
    assert send_through([], "job", lambda job: job) == "job"


def test_a_middleware_that_forgets_to_return_keeps_the_value() -> None:
    def forgetful(job: Any, next: Any) -> None:  # noqa: A002
        next(job)

    assert send_through([forgetful, forgetful], "job", lambda job: 5) == 5


def test_a_middleware_may_change_the_value_even_to_something_false() -> None:
    assert send_through([lambda job, next: next(job) and 0], "job", lambda job: 5) == 0  # noqa: A006


def test_a_middleware_that_does_not_go_on_ends_it() -> None:
    assert send_through([lambda job, next: None], "job", lambda job: pytest.fail("it ran")) is None  # noqa: A006


def test_an_exception_passes_through_what_is_around_it() -> None:
    seen: list[str] = []

    def catching(job: Any, next: Any) -> str:  # noqa: A002
        try:
            return str(next(job))
        except OSError as error:
            return f"caught {error}"

    def code(job: Any) -> Any:
        raise OSError("it")

    assert send_through([catching, log(seen, "inner")], "job", code) == "caught it"
    assert seen == ["inner before"]


def test_a_callable_object_will_do() -> None:
    class Twice:
        def __call__(self, job: Any, next: Any) -> Any:  # noqa: A002
            next(job)
            return next(job)

    numbers = iter([1, 2])
    assert send_through([Twice()], "job", lambda job: builtins.next(numbers)) == 2
