"""Jobs that are unique until their code begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel import (
    Job,
    ShouldBeUniqueUntilProcessing,
    signals,
)
from celery_laravel.middleware import Release, Skip
from tests.unit.unique.scripted import job

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.clock import Clock
    from tests.unit.unique.conftest import Worker

pytestmark = pytest.mark.matrix


def test_until_processing_ends_just_before_the_code(app: Celery, worker: Worker, locks: Any) -> None:
    seen: list[Any] = []

    def look_around(job: Any, go_on: Any) -> Any:
        seen.append(list(locks()))
        return go_on(job)

    task = job(app, lambda self: seen.append(list(locks())), unique="until_processing", middleware=[look_around])
    task.delay()
    worker.work()
    assert seen == [["unique:job"], []]


def test_until_processing_the_next_may_be_dispatched_by_the_code(app: Celery, worker: Worker, locks: Any) -> None:
    results: list[Any] = []
    task = job(app, lambda self: results.append(self.delay()), None, unique="until_processing")
    task.delay(1)
    worker.work()
    assert not results[0].suppressed
    assert locks() == {"unique:job": results[0].id}
    worker.work()
    assert (task.ran, locks()) == ([1, 0], {})


def test_until_processing_is_kept_when_middleware_puts_the_job_back(
    app: Celery, worker: Worker, time: Clock, locks: Any
) -> None:
    closed = [True]
    task = job(app, unique="until_processing", middleware=[Release.when(lambda: closed.pop() if closed else False, 9)])
    first = task.delay()
    worker.work()
    time.now += 10**6
    assert locks() == {"unique:job": first.id}
    worker.work()
    assert (task.ran, locks()) == ([0], {})


@pytest.mark.parametrize("end", ["skip", "fail", "too_often"])
def test_until_processing_is_freed_when_the_code_is_never_reached(
    app: Celery, worker: Worker, locks: Any, end: str
) -> None:
    middleware = {
        "skip": [Skip.when(True)],
        "fail": [lambda job, go_on: job.fail("no")],
        "too_often": [Release.when(True)],
    }[end]
    task = job(app, unique="until_processing", tries=2, middleware=middleware)
    task.delay()
    worker.work_until_idle()
    assert (task.ran, locks()) == ([], {})


def test_until_processing_a_retry_does_not_take_the_lock_again(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app, OSError("bad"), None, unique="until_processing", tries=2)
    task.delay(1)
    worker.work()
    assert locks() == {}
    second = task.delay(2)
    assert not second.suppressed
    again, other = worker.messages()
    worker.deliver(again)
    assert locks() == {"unique:job": second.id}
    worker.deliver(other)
    assert (task.ran, locks()) == ([1, 1, 2], {})


def test_until_processing_a_copy_that_comes_after_a_crash_does_not_wait_for_the_next(
    app: Celery, worker: Worker, locks: Any
) -> None:
    class Killed(BaseException):
        pass

    task = job(app, Killed(), None, unique="until_processing")
    task.delay(1)
    [message] = worker.messages()
    with pytest.raises(Killed):
        worker.deliver(message)
    second = task.delay(2)
    worker.deliver(message)
    assert task.ran == [1, 1]
    assert locks() == {"unique:job": second.id}


def test_the_mixin_until_processing_is_the_option(app: Celery) -> None:
    class Update(Job, ShouldBeUniqueUntilProcessing):
        name = "update"

        def run(self) -> None:
            pass

    assert app.register_task(Update()).job_options.unique == "until_processing"


def test_receivers_that_raise_change_nothing(app: Celery) -> None:
    def bad(**_: Any) -> None:
        raise OSError("receiver")

    signals.unique_job_skipped.connect(bad)
    try:
        task = job(app)
        task.delay()
        assert task.delay().suppressed
    finally:
        signals.unique_job_skipped.disconnect(bad)
