"""An attempt's outcome in Celery's language: a value to return, or an exception to raise.

Celery has no word for "back to the queue" but its ``Retry``, which this module
raises after it has sent the message itself. ``Ignore`` is raised for copies of
a message whose job is elsewhere, and ``Reject`` (to requeue) where a job can
neither run nor be sent again: in both cases nothing waits for this copy.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from kombu.exceptions import EncodeError

from celery_laravel import events
from celery_laravel.attempt.outcome import Failed, Outcome, PassedOn, Released, outage_wait
from celery_laravel.attempt.retry_policy import Counts, Limits
from celery_laravel.attempt.running_job import RunningJob
from celery_laravel.attempt.storing import keep_from_storing
from celery_laravel.errors import InvalidMessageError, StoreUnavailableError
from celery_laravel.message.header import Header, read_header
from celery_laravel.message.resend import resend, send_again
from celery_laravel.middleware.intervention import reason_of_release
from celery_laravel.worker.results import store_retry

if TYPE_CHECKING:
    from celery_laravel.worker.settlement import Settlement
    from celery_laravel.worker.starting import NotStarted

logger = logging.getLogger(__name__)

CelerysSignal = Any
"""A ``Retry``, ``Ignore`` or ``Reject``."""


def conclude(  # noqa: PLR0917  the parts of one attempt
    task: Any,
    request: Any,
    settlement: Settlement,
    running: RunningJob,
    outcome: Outcome,
    arguments: tuple[tuple[Any, ...], dict[str, Any]],
) -> Any:
    """Act on an attempt's outcome: return the job's value, or raise what tells Celery how it ended.

    A success is settled later, when Celery has stored the result and sent what
    follows; everything else here.
    """
    if isinstance(outcome, Failed):
        settlement.failed(task, request, running, outcome.error, *arguments)
        raise outcome.error
    if isinstance(outcome, Released):
        raise _release(task, request, settlement, running, outcome, arguments)
    if isinstance(outcome, PassedOn):
        _pass_on(task, request, settlement, running, outcome.error, arguments)
        raise outcome.error
    settlement.free_unique_lock(task, running, soon=True)  # before Celery sends what follows
    if running.following:
        settlement.extend_chain(request, running)
    settlement.reopen_chain(request, running)
    running.is_followed = True
    return outcome.value


def drop(task: Any, request: Any, copy: NotStarted) -> CelerysSignal:
    """Let go of a copy of a message, or put back one whose job has to wait; return what to raise."""
    level = logging.DEBUG if copy.is_known else logging.INFO
    logger.log(level, "Job %s (%s) is not started: %s", request.id, task.name, copy.reason)
    if copy.release is not None:
        header, delay = copy.release
        try:
            send_again(task, resend(task, request, header, countdown=delay or None), header)
        except Exception as unsent:
            logger.exception("Job %s (%s) could not be sent again; its message is returned", request.id, task.name)
            return Reject(unsent, requeue=True)
    return Ignore(copy.reason)


def put_back_unstarted(task: Any, request: Any, error: Exception) -> CelerysSignal | Exception:
    """Put a job back that cannot start because its attempt cannot be counted; return what to raise.

    The store does not answer, or cannot be used as it is (its tables have not
    been migrated, or its driver is not installed), or took longer than the job's
    timeout, whose code has not begun. The job waits as long as an `outage_wait`.
    """
    if request.is_eager:
        return error
    delay = outage_wait()
    reason = "the store cannot be used"
    if isinstance(error, StoreUnavailableError):
        reason = "the store does not answer"
    elif isinstance(error, SoftTimeLimitExceeded):
        reason = "its timeout was over before the store had answered"
    logger.error("Job %s (%s) is put back for %.0f s, because %s: %s", request.id, task.name, delay, reason, error)
    try:
        header = read_header(request.headers)
        signature = resend(task, request, header, countdown=delay)
        send_again(task, signature, header)
    except Exception as unsent:
        return Reject(unsent, requeue=True)
    return Retry(reason, exc=error, when=delay, sig=signature)


def unstarted(task: Any, request: Any) -> RunningJob:
    """A job that failed before its attempt could begin, as far as its message tells."""
    try:
        header = read_header(request.headers)
    except InvalidMessageError:
        header = Header()
    return RunningJob(request.id, task.job_options, header, Counts(header.attempts + 1, header.exceptions), Limits())


def _release(  # noqa: PLR0917  the parts of one attempt
    task: Any,
    request: Any,
    settlement: Settlement,
    running: RunningJob,
    outcome: Released,
    arguments: tuple[tuple[Any, ...], dict[str, Any]],
) -> CelerysSignal | Exception:
    header = settlement.released(running, outcome)
    signature = resend(task, request, header, countdown=outcome.delay or None)
    store_retry(task, request, running, outcome.error)
    try:
        send_again(task, signature, header)
    except EncodeError as unsent:  # which no other worker could do either
        running.outcome = Failed(unsent)
        settlement.failed(task, request, running, unsent, *arguments)
        return unsent
    except Exception as unsent:
        if task.acks_late or running.header.batch_id is not None:
            logger.exception(
                "Job %s (%s) could not be put back; its message is returned to the broker", running.id, task.name
            )
            return Reject(unsent, requeue=True)
        settlement.failed(task, request, running, unsent, *arguments)
        return unsent
    settlement.put_back(running)
    if running.is_retry_stored:
        keep_from_storing(request)
    args, kwargs = arguments
    events.send(events.job_released, task, task_id=running.id, args=args, kwargs=kwargs, delay=outcome.delay)
    reason = None if outcome.error else reason_of_release(running, outcome.delay)
    return Retry(reason, exc=outcome.error, when=outcome.delay, sig=signature)


def _pass_on(  # noqa: PLR0917  the parts of one attempt
    task: Any,
    request: Any,
    settlement: Settlement,
    running: RunningJob,
    signal: BaseException,
    arguments: tuple[tuple[Any, ...], dict[str, Any]],
) -> None:
    """Settle a job whose code raised one of Celery's own signals.

    ``Retry`` has sent the next message, ``Ignore`` means done unless the job was
    replaced, ``Reject`` without requeueing is a failure to Celery; with it the
    same message comes again.
    """
    if running.is_settled:
        return
    if isinstance(signal, Retry):
        if not request.is_eager:
            settlement.put_back(running)
            if running.is_retry_stored:
                keep_from_storing(request)
            settlement.released(running, Released(0.0, counts=False))
    elif isinstance(signal, Reject):
        if signal.requeue:
            settlement.abandoned(running)
        else:
            settlement.failed(task, request, running, signal, *arguments)
    else:
        settlement.succeeded(task, running, *arguments)
