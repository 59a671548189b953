"""Middleware around a job's attempts, and what a job can be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_laravel import (
    ConfigurationError,
)
from tests.unit.job.scripted import job

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.matrix


def test_middleware_wraps_every_attempt_and_knows_the_job(app: Celery) -> None:
    seen: list[Any] = []

    def log(job: Any, next: Any) -> Any:  # noqa: A002
        seen.append((job.name, job.attempts, job.arguments["n"]))
        return next(job)

    @app.task(name="x", bind=True, tries=2, middleware=[log])
    def x(self: Any, n: int) -> int:
        if self.attempts == 1:
            raise OSError
        return n

    assert x.apply((5,)).get() == 5
    assert seen == [("x", 1, 5), ("x", 2, 5)]


def test_middleware_may_end_the_attempt(app: Celery) -> None:
    task = job(app, "never", middleware=[lambda job, go_on: "instead"])
    assert task.apply().get() == "instead"
    assert task.runs == []


@pytest.mark.parametrize("returned", [None, []])
def test_a_middleware_method_may_return_none(app: Celery, returned: Any) -> None:
    assert job(app, "done", middleware=lambda self: returned).apply().get() == "done"


@pytest.mark.parametrize("returned", [5, [5], "x"])
def test_a_middleware_method_that_returns_nonsense_fails_the_job(app: Celery, returned: Any) -> None:
    with pytest.raises(ConfigurationError, match="middleware"):
        job(app, "done", tries=1, middleware=lambda self: returned).apply().get()


def test_an_exception_in_a_middleware_is_the_attempts(app: Celery) -> None:
    def broken(job: Any, next: Any) -> Any:  # noqa: A002
        raise LookupError("in the middleware")

    task = job(app, "never", tries=2, middleware=[broken])
    with pytest.raises(LookupError):
        task.apply().get()


def test_arguments_are_bound_to_names_without_self(app: Celery) -> None:
    seen: list[Any] = []

    @app.task(name="x", bind=True)
    def x(self: Any, user: int, *rest: int, force: bool = False) -> None:
        seen.append(dict(self.arguments))

    x.apply((1, 2), {"force": True})
    assert seen == [{"user": 1, "rest": (2,), "force": True}]


@pytest.mark.parametrize("member", ["attempts", "arguments", "batch"])
def test_what_only_a_running_job_knows_is_an_error_elsewhere(app: Celery, member: str) -> None:
    with pytest.raises(RuntimeError, match=f"{member} is known only while the job runs"):
        getattr(job(app, "done"), member)


@pytest.mark.parametrize("call", [lambda t: t.release(), lambda t: t.fail(), lambda t: t.delete()])
def test_speaking_up_outside_a_job_is_an_error(app: Celery, call: Any) -> None:
    with pytest.raises(RuntimeError, match="while the job runs"):
        call(job(app, "done"))


def test_a_job_in_no_batch_has_none(app: Celery) -> None:
    assert job(app, lambda self: self.batch).apply().get() is None
