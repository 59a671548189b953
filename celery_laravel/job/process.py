"""What every process that has jobs is told once, and does beside the tasks themselves."""

from __future__ import annotations

import itertools
import sys
import traceback
from typing import TYPE_CHECKING, Any

from celery.signals import task_postrun
from celery.states import FAILURE, SUCCESS

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


_SENDING = frozenset({"_dispatch_callbacks_and_chain", "apply_async", "signature"})
"""What Celery's tracer calls to send what follows a job: its links, and the next step of its chain."""


def _unsent(error: BaseException | None) -> BaseException | None:
    """The exception for which Celery could not send what follows a job that had succeeded; None if there is none.

    Celery then says that the job has failed, but not always to those who listen:
    any exception but a few leaves its tracer, and so does another one, of a
    result backend that does not answer either. ``error`` is the exception that
    is on its way. One that came from storing the result, or from a handler of
    the user's, is not meant: what follows was sent before.
    """
    while error is not None:
        frames = traceback.walk_tb(error.__traceback__)
        names = [frame.f_code.co_name for frame, _ in frames]
        if any(pair[0] == "trace_task" and pair[1] in _SENDING for pair in itertools.pairwise(names)):
            return error
        error = error.__context__
    return None


def _settle_after_trace(sender: Any = None, state: str | None = None, retval: Any = None, **_: Any) -> None:
    if not isinstance(sender, SettledJob):
        return
    request = sender.request_stack.top
    running: RunningJob | None = request.__dict__.get(RUNNING)
    if running is not None:
        running.is_followed = False
        leases.let_go_of_attempt(running.id, running.owner)
    error: Any = retval if state == FAILURE else None
    if state is None:
        error = sys.exc_info()[1]
    elif state == SUCCESS and not request.is_eager:
        error = _unsent(sys.exc_info()[1])
    if error is not None and not isinstance(error, Exception):
        return  # the process is to exit; the message comes again
    if running is None:
        if error is None or not has_header(request.headers):
            return
        running = unstarted(sender, request)
    runtime_of(sender.app).settlement.after_trace(sender, request, running, error)
