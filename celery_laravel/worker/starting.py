"""The start of an attempt that is counted: it is written down before the job's code runs, or refused."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery.states import STARTED

from celery_laravel.attempt import leases
from celery_laravel.attempt.ownership import new_owner
from celery_laravel.attempt.retry_policy import Limits
from celery_laravel.stores.records import StartStatus
from celery_laravel.worker.admission import may_run_unlocked, waiting, waiting_time
from celery_laravel.worker.results import ignores_result

if TYPE_CHECKING:
    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.message.header import Header
    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import AttemptStart, LockRequest

logger = logging.getLogger(__name__)

KEEP_OPEN = timedelta(days=7)
"""How long the store remembers a job that has begun and not ended: longer than a message waits to come again."""

_FIRST_LOOK, _LONGEST_WAIT = 5.0, 20.0
_PADDING = 0.5
"""Seconds after the end of a lease, so that whoever looks then finds it over."""


@dataclass(frozen=True)
class NotStarted:
    """The message is a copy, of an attempt that runs or of something that is over, or its job waits for a lock.

    ``release`` is the header and the delay of the message to put in its place,
    None when it is to be dropped. ``is_known``: the same was said of this
    message before.
    """

    reason: str
    release: tuple[Header, float] | None = None
    is_known: bool = False


def start(  # noqa: PLR0917  the parts of one start
    store: Store,
    task: Any,
    job_id: str,
    owner: str,
    header: Header,
    attempts: int,
    limits: Limits,
    lock: LockRequest | None,
) -> AttemptStart | NotStarted:
    """Write down that an attempt starts after so many, with the lock it needs, or learn why it must not.

    One call of the store; a second one where the job may do without its lock.
    One that has started is held by ``owner`` under a lease, which this process
    renews until `leases.let_go_of_attempt`.

    Raises:
        StoreUnavailableError: The start may or may not have been written down;
            if it has, copies wait until its lease is over, and it counts.
    """
    answer = _write_down(store, job_id, owner, header, attempts, lock)
    if answer.status is StartStatus.LOCKED and may_run_unlocked(task.job_options):
        answer = _write_down(store, job_id, owner, header, attempts)
    refused = _refusal(answer, header, limits, lock)
    if refused is not None:
        return refused
    leases.keep_attempt_alive(store, job_id, owner)
    return answer


def find_other_start(store: Store, job_id: str, header: Header) -> NotStarted | None:
    """Why the message of a job that is not to run any more is only a copy of one that runs, or has ended; else None.

    One call of the store. It starts the job where nothing keeps it from that, and lets go of it at once.

    Raises:
        StoreUnavailableError: It cannot be told.
    """
    answer = _write_down(store, job_id, new_owner(job_id), header, header.attempts, lease=timedelta(0))
    is_copy = answer.status in {StartStatus.RUNNING, StartStatus.OVER}
    return _refusal(answer, header, Limits(), None) if is_copy else None


def write_down_when_long(store: Store, running: RunningJob) -> None:
    """Write down an attempt whose start is not counted, once it has run for ten seconds, by the thread of the leases.

    From then on it is as one that is counted: no copy starts beside it, and one
    that comes later is dropped. A short job costs no call for it.
    """

    def begin() -> None:
        answer = _write_down(store, running.id, running.owner, running.header, running.header.attempts)
        running.is_durable = answer.status is StartStatus.STARTED

    leases.keep_attempt_alive(store, running.id, running.owner, begin=begin)


def store_start(task: Any, request: Any) -> None:
    """Store the state ``STARTED`` in the place of Celery, which would do so for a copy too, over the job's result.

    A result backend that fails keeps no job from running; that is logged.
    """
    if not task.stores_its_start or ignores_result(task, request):
        return
    start = {"pid": os.getpid(), "hostname": request.hostname}
    try:
        task.backend.store_result(request.id, start, STARTED, request=request)
    except Exception:
        logger.exception("Of job %s (%s) it could not be stored that it has started", request.id, task.name)


def was_kept_waiting(header: Header) -> bool:
    """Whether a message was put back before, because a copy of it ran or its lock was held."""
    return header.waits > 0


def started(header: Header) -> Header:
    """The header of a message whose wait is over."""
    return replace(header, waits=0) if header.waits else header


def _write_down(  # noqa: PLR0917  the parts of one start
    store: Store,
    job_id: str,
    owner: str,
    header: Header,
    attempts: int,
    lock: LockRequest | None = None,
    *,
    lease: timedelta | None = None,
) -> AttemptStart:
    return store.attempts.begin(
        job_id,
        turn=header.turn,
        attempts=attempts,
        exceptions=header.exceptions,
        owner=owner,
        lease=leases.LEASE if lease is None else lease,
        keep=KEEP_OPEN,
        lock=lock,
    )


def _refusal(answer: AttemptStart, header: Header, limits: Limits, lock: LockRequest | None) -> NotStarted | None:
    if answer.status is StartStatus.LOCKED:
        reason = f"its unique lock {'' if lock is None else lock.key} is held by {answer.holder}"
        return NotStarted(reason, (waiting(header), waiting_time(header)))
    if answer.status is StartStatus.OVER:
        return NotStarted("a copy of a turn that is over")
    if answer.status is StartStatus.RUNNING:
        reason = (
            f"a copy of it runs, or has lost its worker less than {leases.LEASE.total_seconds():.0f} s ago; "
            "this one waits until that has ended"
        )
        return NotStarted(reason, (waiting(header), _until_next_look(header, answer.delay)), was_kept_waiting(header))
    if answer.status is StartStatus.RELEASED:
        following = header.next_turn(attempts=answer.attempt, exceptions=answer.exceptions, deadline=limits.deadline)
        return NotStarted("put back before, by a worker that died", (following, answer.delay))
    return None


def _until_next_look(header: Header, left: float) -> float:
    """Seconds after which a copy looks again: 5, 10, then 20, but not after the end of the other's lease.

    A lease may end before its time: a worker that is stopped ends those of its
    jobs, maybe after their messages have gone to others. Nor may a copy wait
    for long where a broker redelivers what waits in a worker.
    """
    return min(_FIRST_LOOK * 2.0 ** min(header.waits, 8), _LONGEST_WAIT, left + _PADDING)
