"""What a job may say of itself, who is told, and what its failure calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_laravel import (
    Bus,
    ManuallyFailedError,
    current_job,
    signals,
)
from tests.unit.job.conftest import ATTEMPT_SIGNALS
from tests.unit.job.scripted import job, names

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.matrix


def test_fail_is_final_and_does_not_raise(app: Celery) -> None:
    def fail(self: Any) -> str:
        self.fail(ValueError("first"))
        self.fail(ValueError("second"))
        self.release(5)
        self.delete()
        return "went on"

    task = job(app, fail, tries=5)
    with pytest.raises(ValueError, match="first"):
        task.apply().get()
    assert task.runs == [1]


@pytest.mark.parametrize(
    ("reason", "kind", "text"),
    [
        (None, ManuallyFailedError, "failed by hand"),
        ("no money", ManuallyFailedError, "no money"),
        (ValueError("x"), ValueError, "x"),
        (ValueError, ValueError, "^$"),
    ],
)
def test_the_reason_of_a_failure(app: Celery, reason: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        job(app, lambda self: self.fail(reason)).apply().get()


@pytest.mark.parametrize("after", [lambda self: None, lambda self: self.release(), lambda self: self.fail()])
def test_delete_is_final_and_no_failure(app: Celery, after: Any) -> None:
    def delete(self: Any) -> str:
        self.delete()
        after(self)
        return "value"

    task = job(app, delete, tries=3)
    assert task.apply().get() == "value"
    assert task.runs == [1]


def test_an_exception_after_delete_is_only_reported(app: Celery, heard: Any) -> None:
    def delete(self: Any) -> None:
        self.delete()
        raise OSError

    assert job(app, delete, tries=3).apply().state == "SUCCESS"
    assert names(heard) == ["job_processing", "job_exception_occurred", "job_processed"]


def test_a_job_without_options_may_speak_up_too(app: Celery) -> None:
    task = job(app, lambda self: self.release(), lambda self: self.release(), "done")
    assert task.apply().get() == "done"
    assert task.runs == [1, 2, 3]


def test_the_signals_of_a_job_that_is_tried_twice(app: Celery, heard: Any) -> None:
    task = job(app, OSError("once"), "done", tries=2, backoff=7)
    task.apply((1,), {"k": 2}, task_id="id")
    assert names(heard) == [
        "job_processing",
        "job_exception_occurred",
        "job_released",
        "job_processing",
        "job_processed",
    ]
    for _, details in heard:
        assert details["sender"].name == task.name
        assert (details["task_id"], tuple(details["args"]), details["kwargs"]) == ("id", (1,), {"k": 2})
    assert isinstance(heard[1][1]["exception"], OSError)
    assert heard[2][1]["delay"] == 7


def test_the_signals_of_a_job_that_fails(app: Celery, heard: Any) -> None:
    job(app, OSError("once"), tries=1).apply()
    assert sorted(names(heard)) == ["job_exception_occurred", "job_failed", "job_processing"]


def test_a_plain_tasks_attempts_are_told_to_whoever_listens(app: Celery, heard: Any) -> None:
    job(app, "done").apply()
    job(app, OSError()).apply()
    assert names(heard)[:2] == ["job_processing", "job_processed"]
    assert "job_failed" in names(heard)


def test_a_receiver_that_raises_changes_nothing(app: Celery) -> None:
    def raising(**_: Any) -> None:
        raise RuntimeError("of the receiver")

    for name in ATTEMPT_SIGNALS:
        getattr(signals, name).connect(raising)
    try:
        assert job(app, OSError(), "done", tries=2).apply().get() == "done"
    finally:
        for name in ATTEMPT_SIGNALS:
            getattr(signals, name).disconnect(raising)


def test_dispatching_is_announced_with_the_id_and_the_queue(app: Celery, heard: Any) -> None:
    result = job(app, "done", tries=2).apply_async((1,), queue="q")
    assert names(heard) == ["job_queueing", "job_queued"]
    assert {details["task_id"] for _, details in heard} == {result.id}
    assert {details["queue"] for _, details in heard} == {"q"}


def test_the_failed_hook_is_called_once_with_the_exception_and_the_arguments(app: Celery) -> None:
    seen: list[Any] = []

    def hook(self: Any, exc: Exception, *args: Any, **kwargs: Any) -> None:
        seen.append((self.name, exc, args, kwargs))

    error = OSError("last")
    task = job(app, OSError("first"), error, tries=2, failed=hook)
    task.apply((1,), {"k": 2})
    assert seen == [(task.name, error, (1,), {"k": 2})]


@pytest.mark.parametrize("script", [lambda self: self.delete(), "done"])
def test_the_failed_hook_is_for_failures(app: Celery, script: Any) -> None:
    assert job(app, script, failed=lambda *a: pytest.fail("called")).apply().state == "SUCCESS"


def test_a_hook_that_raises_changes_nothing(app: Celery) -> None:
    def hook(self: Any, exc: Exception) -> None:
        raise RuntimeError("of the hook")

    with pytest.raises(OSError, match="the job's"):
        job(app, OSError("the job's"), tries=1, failed=hook).apply().get()


def test_a_hook_may_ask_the_job(app: Celery) -> None:
    seen: list[Any] = []

    def hook(self: Any, exc: Exception, *args: Any) -> None:
        seen.append((self.attempts, self.request.id, current_job() is self))

    job(app, OSError(), tries=2, failed=hook).apply(task_id="id")
    assert seen == [(2, "id", True)]


def test_a_job_is_not_recorded_as_failed_when_its_caller_sees_it(app: Celery) -> None:
    job(app, OSError(), tries=1).apply()
    assert Bus(app).failed.count() == 0


def test_a_message_with_a_damaged_header_fails_its_job_and_no_other(app: Celery) -> None:
    task = job(app, "done", tries=2)
    result = task.apply(headers={"laravel": {"v": 99}})
    assert result.state == "FAILURE"
    assert "version 99" in str(result.result)
    assert task.runs == []


def test_a_system_exit_is_not_an_outcome(app: Celery) -> None:
    task = job(app, SystemExit(3), tries=3)
    with pytest.raises(SystemExit):
        task.apply()
    assert task.runs == [1]
