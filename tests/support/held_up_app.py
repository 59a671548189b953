"""The app of scripted jobs, of which a process that has put its job back is held up until that has ended elsewhere.

One whose job fails for the first time is held up for a moment, or until it has
ended again elsewhere, before Celery hears of the failure.
"""

from __future__ import annotations

import contextlib
from typing import Any

from celery import current_task
from celery.signals import after_task_publish, task_retry

from celery_laravel import signals
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


@signals.job_failed.connect
def hold_up_failure(task_id: str = "", args: Any = (), **_: Any) -> None:
    if "held" in args[0] and len(app.record.all(args[0], "runs")) == 1:
        with contextlib.suppress(TimeoutError):
            wait_until(app.AsyncResult(task_id).ready, 1.5)
