"""Dispatching on a condition, in the caller, and eagerly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_laravel import (
    Bus,
    JobReleasedError,
    current_job,
    install,
)
from celery_laravel.attempt.running_job import running_of
from tests.unit.job.scripted import job, names

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.matrix


@pytest.mark.parametrize(("condition", "sent"), [(True, True), (0, False), (lambda: True, True), (list, False)])
def test_delay_if_and_delay_unless(app: Celery, heard: Any, condition: Any, sent: bool) -> None:
    task = job(app, "done")
    assert (task.delay_if(condition, 1) is not None) is sent
    assert (task.delay_unless(condition, 1) is not None) is not sent
    assert names(heard) == ["job_queueing", "job_queued"]


def test_dispatch_sync_returns_what_the_code_returns_after_its_middleware(app: Celery, heard: Any) -> None:
    task = job(
        app,
        lambda self: (self.attempts, self.request.args, current_job() is self),
        middleware=[lambda job, go_on: go_on(job)],
    )
    assert task.dispatch_sync(1, k=2) == (1, (1,), True)
    assert names(heard) == ["job_processing", "job_processed"]
    assert current_job() is None


def test_dispatch_sync_raises_what_the_code_raises_after_one_attempt_and_its_hook(app: Celery) -> None:
    seen: list[Any] = []
    task = job(app, OSError("it"), tries=5, failed=lambda self, exc: seen.append(exc))
    with pytest.raises(OSError, match="it"):
        task.dispatch_sync()
    assert task.runs == [1]
    assert [str(error) for error in seen] == ["it"]
    assert Bus(app).failed.count() == 0


def test_dispatch_sync_of_a_job_that_calls_fail_returns_after_its_hook(app: Celery) -> None:
    seen: list[Any] = []
    task = job(app, lambda self: self.fail("no"), failed=lambda self, exc: seen.append(str(exc)))
    assert task.dispatch_sync() is None
    assert seen == ["no"]


def test_dispatch_sync_of_a_job_that_releases_is_an_error_and_no_failure(app: Celery) -> None:
    task = job(app, lambda self: self.release(5), tries=3, failed=lambda *a: pytest.fail("called"))
    with pytest.raises(JobReleasedError) as caught:
        task.dispatch_sync()
    assert caught.value.delay == 5
    assert task.name in str(caught.value)


def test_dispatch_sync_within_a_job_leaves_the_outer_one_alone(app: Celery) -> None:
    inner = job(app, lambda self: (self.attempts, current_job() is self))

    def outer(self: Any) -> Any:
        return inner.dispatch_sync(), self.attempts, current_job() is self

    task = job(app, OSError(), outer, tries=2)
    assert task.apply().get() == ((1, True), 2, True)


def test_dispatch_sync_of_a_task_within_itself_takes_nothing_from_the_outer_ones_request(app: Celery) -> None:
    """Else it would hold the outer one's locks, and a retry of its failure would send what follows the outer one."""
    seen: list[tuple[Any, Any, Any]] = []

    def inside(self: Any) -> None:
        seen.append((self.request.callbacks, self.request.root_id, running_of(self).owner))
        if len(seen) == 1:
            self.dispatch_sync()

    task = job(app, inside, tries=1)
    task.apply(link=job(app, "after").si())
    outer, inner = seen
    assert outer[0] is not None
    assert inner[:2] == (None, None)
    assert inner[2] != outer[2]


def test_dispatch_sync_of_a_plain_task_is_a_call(app: Celery) -> None:
    @app.task(name="x")
    def x(n: int) -> int:
        return n

    assert x.dispatch_sync(5) == 5


def test_eager_dispatch_propagates_if_asked_to(make_app: Callable[..., Celery]) -> None:
    app = install(make_app(task_always_eager=True, task_eager_propagates=True))
    task = job(app, OSError("last"), tries=2)
    with pytest.raises(OSError, match="last"):
        task.delay()
    assert task.runs == [1, 2]
