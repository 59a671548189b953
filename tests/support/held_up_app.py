"""The app of scripted jobs, of which a process that has put its job back is held up until that has ended elsewhere."""

from __future__ import annotations

from typing import Any

from celery import current_task
from celery.signals import after_task_publish, task_retry

from celery_laravel.testing.processes import wait_until
from tests.support.jobs_app import app


@after_task_publish.connect
def hold_up(headers: Any = None, **_: Any) -> None:
    job = current_task
    if job and job.request.id == headers["id"]:
        result = app.AsyncResult(job.request.id)
        wait_until(result.ready, 30, message="the end of the job that was put back")


@task_retry.connect
def note_retry(request: Any = None, reason: Any = None, **_: Any) -> None:
    app.record.add(request.args[0], "task_retry", repr(reason.exc))
