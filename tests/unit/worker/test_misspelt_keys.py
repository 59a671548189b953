"""A worker says when it starts which keys of middleware are probably misspelt names of arguments."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery import Celery

from celery_laravel import Skip, ThrottlesExceptions, WithoutOverlapping, install
from celery_laravel.worker.misspelt_keys import warn_of_misspelt_keys


def warnings_of(caplog: pytest.LogCaptureFixture, **options: Any) -> list[str]:
    app = install(Celery("shop", broker="memory://", set_as_current=False))
    app.conf.laravel_store = "memory://"

    @app.task(name="post", bind=True, shared=False, **options)
    def post(self: Any, account_id: int, amount: int = 1) -> None:
        """Never run."""

    with caplog.at_level(logging.WARNING):
        warn_of_misspelt_keys(app)
    return [record.getMessage() for record in caplog.records]


def test_a_slip_is_told_with_what_is_probably_meant(caplog: pytest.LogCaptureFixture) -> None:
    (said,) = warnings_of(caplog, middleware=[Skip.when(False), WithoutOverlapping(by="acount_id", release_after=3)])
    assert said.startswith(
        "WithoutOverlapping('acount_id', release_after=3.0) of the task post: 'acount_id' is no argument"
    )
    assert "If the argument 'account_id' is meant, mend it" in said
    assert said.endswith("by=lambda job: 'acount_id'")


def test_each_of_several_names_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    (said,) = warnings_of(caplog, middleware=[ThrottlesExceptions(by=["account_id", "ammount"])])
    assert "'amount' is meant" in said


def given_by_a_function(job: Any) -> str:
    return "acount_id"


@pytest.mark.parametrize(
    "by", ["account_id", "partner-api", ["account_id", "amount"], 7, "", given_by_a_function, ("eu", 7)]
)
def test_what_is_no_slip_is_not_told(caplog: pytest.LogCaptureFixture, by: Any) -> None:
    assert warnings_of(caplog, middleware=[WithoutOverlapping(by=by)]) == []


def test_a_function_that_returns_middleware_and_a_task_without_any_are_not_looked_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert warnings_of(caplog, middleware=lambda job, account_id: [WithoutOverlapping(by="acount_id")]) == []
    assert warnings_of(caplog) == []
