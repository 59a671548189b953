"""Unique jobs that end in the worker's parent, or run eagerly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import NotRegistered

from celery_laravel.job.undeliverable import settle_undeliverable
from celery_laravel.message.options import JobOptions
from tests.unit.unique.scripted import job

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.unit.unique.conftest import Worker

pytestmark = pytest.mark.matrix


def test_a_revoked_or_expired_job_frees_its_lock(app: Celery, worker: Worker, locks: Any) -> None:
    task = job(app)
    task.delay()
    [message] = worker.messages()
    request = worker.request(message)
    request._announce_revoked("expired", terminated=False, signum=None, expired=True)
    assert locks() == {}


def test_a_revoked_job_frees_the_lock_that_its_message_has_though_its_task_is_unique_no_more(
    app: Celery, worker: Worker, locks: Any
) -> None:
    """The message is of before a deployment, its worker of after."""
    job(app).delay()
    [message] = worker.messages()
    type(app.tasks["job"]).job_options = JobOptions()
    worker.request(message)._announce_revoked("revoked", terminated=False, signum=None, expired=False)
    assert locks() == {}


@pytest.mark.parametrize("error", [None, OSError("lost")])
def test_a_job_that_is_settled_without_its_child_frees_its_lock(
    app: Celery, worker: Worker, locks: Any, error: Any
) -> None:
    task = job(app)
    task.delay()
    [message] = worker.messages()
    task.settle_without_child(worker.request(message)._context, error)
    assert locks() == {}


def test_a_job_whose_task_the_worker_does_not_know_frees_its_lock(app: Celery, worker: Worker, locks: Any) -> None:
    job(app).delay()
    [message] = worker.messages()
    settle_undeliverable(app, message, NotRegistered("job"))
    assert locks() == {}


def test_an_eager_job_takes_and_frees_its_lock(make_app: Callable[..., Celery], app: Celery, locks: Any) -> None:
    app.conf.task_always_eager = True
    held: list[Any] = []
    inner: list[Any] = []

    def look(self: Any) -> None:
        held.append(list(locks()))
        inner.append(self.delay().suppressed)

    task = job(app, look)
    assert task.delay().suppressed is False
    assert (held, inner, locks()) == ([["unique:job"]], [True], {})
    assert task.delay().suppressed is False


def test_an_eager_job_that_fails_frees_its_lock(app: Celery, locks: Any) -> None:
    app.conf.task_always_eager = True
    task = job(app, OSError("bad"), tries=2)
    assert task.delay().failed()
    assert (task.ran, locks()) == ([0, 0], {})
