"""What every process that has jobs is told once, and does beside the tasks themselves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from celery.signals import task_postrun
from celery.states import FAILURE

from celery_laravel.attempt import leases
from celery_laravel.attempt.running_job import RUNNING
from celery_laravel.dispatch.batch import register_batches
from celery_laravel.job.settled import SettledJob
from celery_laravel.message.arguments import register_exceptions
from celery_laravel.message.header import has_header
from celery_laravel.runtime import runtime_of
from celery_laravel.worker.conclusion import unstarted

if TYPE_CHECKING:
    from celery_laravel.attempt.running_job import RunningJob


def prepare_process() -> None:
    """What every process that has jobs needs once: the settling after Celery's own ending, and JSON's decoders."""
    task_postrun.connect(_settle_after_trace, dispatch_uid="celery_laravel.settlement", weak=False)
    register_exceptions()
    register_batches()


def _settle_after_trace(sender: Any = None, state: str | None = None, retval: Any = None, **_: Any) -> None:
    if not isinstance(sender, SettledJob):
        return
    request = sender.request_stack.top
    running: RunningJob | None = request.__dict__.get(RUNNING)
    if running is not None:
        leases.let_go_of_attempt(running.id, running.owner)
    error = retval if state == FAILURE else sys.exc_info()[1] if state is None else None
    if error is not None and not isinstance(error, Exception):
        return  # the process is to exit; the message comes again
    if running is None:
        if error is None or not has_header(request.headers):
            return
        running = unstarted(sender, request)
    runtime_of(sender.app).settlement.after_trace(sender, request, running, error)
