"""Unique and debounced jobs where they are picked up: may this one run, and with which arguments."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery.utils.saferepr import saferepr

from celery_laravel import events
from celery_laravel.attempt import leases, unique
from celery_laravel.attempt.outcome import Deleted, Outcome, Released, outage_wait
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.message.payload import load_arguments
from celery_laravel.message.unique_options import LATEST
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import Place

if TYPE_CHECKING:
    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.message.header import Header
    from celery_laravel.message.options import JobOptions

logger = logging.getLogger("celery_laravel.unique")

KEEP_ARGUMENTS = timedelta(days=7)
"""How long the newest arguments of a started job are kept should it crash: as long as its attempts are."""

_LONGEST_WAIT = 5.0


def waiting_time(header: Header) -> float:
    """Seconds after which a job looks again whether its lock is free: 1, 2, 3, 4, and 5 from then on."""
    return min(header.waits + 1.0, _LONGEST_WAIT)


def waiting(header: Header) -> Header:
    """The header of the same turn's message once more, for a job that waits for its lock."""
    return replace(header, waits=header.waits + 1)


def may_run_unlocked(options: JobOptions) -> bool:
    """Whether a job whose hold was lost runs all the same: one that is unique only while it is queued."""
    return unique.is_held_until_processing(options)


def admit(task: Any, request: Any, running: RunningJob, args: Any, kwargs: Any) -> tuple[Outcome | None, Any, Any]:
    """Ask the store whether a unique or debounced job may run now.

    Returns the outcome of one that may not, else None, and the arguments to run
    with. A job whose store does not answer goes back to its queue, which uses
    up no attempt.

    Raises:
        StoreUnavailableError: It is an eager job, which has no queue.
    """
    header = running.header
    if (header.unique is None and header.debounce is None) or running.verdict.failure is not None:
        return None, args, kwargs
    try:
        if is_superseded(task, running, args, kwargs):
            return Deleted(), args, kwargs
        refused = take_lock(task, request, running)
        if refused is not None:
            return refused, args, kwargs
        args, kwargs = newest_arguments(task, request, running, args, kwargs)
    except StoreUnavailableError as error:
        if request.is_eager:
            raise
        reason = f"the store does not answer: {error}"
        return _put_back(task, running, outage_wait(), reason, logging.ERROR), args, kwargs
    except Exception as error:  # arguments that cannot be read fail this job and no other
        running.verdict.failure = error
    return None, args, kwargs


def take_lock(task: Any, request: Any, running: RunningJob) -> Released | None:
    """Take the lock that a job needs to start where that was not done together with its start.

    None when the job may start; else it waits for the lock, in its queue.
    """
    lease, running.lease = running.lease, None
    store = unique.store_for(task)
    if lease is not None:
        answer = store.locks.acquire(lease)
        if not answer.acquired and not (request.is_eager or may_run_unlocked(running.options)):
            delay = waiting_time(running.header)
            running.header = waiting(running.header)
            return _put_back(task, running, delay, f"its unique lock {lease.key} is held by {answer.owner}")
    if running.header.unique is not None:
        running.header = replace(running.header, waits=0)
        leases.keep_alive(store, running.id)
    return None


def newest_arguments(
    task: Any, request: Any, running: RunningJob, args: Any, kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a ``latest`` job runs with; from here on the next one may be dispatched.

    They become the request's, so that the job, its record and a message that
    puts it back have them. Until the job ends the store keeps them as well, for
    a copy of the old message that comes again after a crash.
    """
    key = running.header.unique
    if running.options.unique != LATEST or key is None or key == unique.running_key(key):
        return args, kwargs
    payload = unique.store_for(task).locks.set_aside(
        key, unique.arguments_key(running.id), owner=running.id, ttl=KEEP_ARGUMENTS
    )
    running.header = replace(running.header, unique=unique.running_key(key), unique_for=None)
    if payload is None:
        return args, kwargs
    new_args, new_kwargs = load_arguments(payload, task.app)
    request.args, request.kwargs = new_args, new_kwargs
    request.argsrepr, request.kwargsrepr = saferepr(new_args), saferepr(new_kwargs)
    return tuple(new_args), dict(new_kwargs)


def last_known_arguments(
    task: Any, request: Any, running: RunningJob, args: Any, kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`newest_arguments` of a job whose process is gone; its message's own where the store cannot tell."""
    try:
        return newest_arguments(task, request, running, args, kwargs)
    except Exception:
        logger.exception("The newest arguments of job %s are not known; its record has its first ones", running.id)
        return args, kwargs


def is_superseded(task: Any, running: RunningJob, args: Any, kwargs: Any) -> bool:
    """Whether a newer dispatch of a debounced job has taken this one's place; not asked again once it may run."""
    if running.header.debounce is None:
        return False
    key, period, number = running.header.debounce
    newer_id = store_of(task.app).debounces.start(key, Place(period, number))
    if newer_id is None:
        running.header = replace(running.header, debounce=None)
        return False
    logger.info("Job %s (%s) is dropped: %s was dispatched after it", running.id, task.name, newer_id or "another")
    events.send(events.job_debounced, task, task_id=running.id, args=args, kwargs=kwargs, newer_id=newer_id)
    return True


def _put_back(task: Any, running: RunningJob, delay: float, reason: str, level: int = logging.INFO) -> Released:
    logger.log(level, "Job %s (%s) is put back for %.0f s, because %s", running.id, task.name, delay, reason)
    return Released(delay, counts=False)
