"""A job's message in the worker's parent: what becomes of jobs whose child never came to settle them."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import VERSION
from celery.exceptions import Reject, TaskRevokedError
from celery.utils.saferepr import saferepr
from celery.worker.request import Request
from celery.worker.state import revoked as revoked_jobs
from celery.worker.state import task_ready

from celery_laravel.attempt.ownership import write_owner
from celery_laravel.errors import InvalidMessageError
from celery_laravel.message.header import NAME, read_header
from celery_laravel.message.parked import is_marked_as_revoked
from celery_laravel.worker import leases
from celery_laravel.worker.conclusion import drop
from celery_laravel.worker.endings import Ending, told
from celery_laravel.worker.redelivery import tell_redelivery
from celery_laravel.worker.results import stored_success
from celery_laravel.worker.starting import was_kept_waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

logger = logging.getLogger(__name__)

TIMEOUT_IS_FAILURE = VERSION[:2] >= (5, 7)
"""Whether Celery's `on_timeout` does all that follows from a failure, as its `on_failure` does in every version."""
_EXITS = (SystemExit, KeyboardInterrupt)
_ON_TIME = timedelta(seconds=1)
"""How much sooner than its time a message that waits may be looked at."""


class JobRequest(Request):
    """Celery's request, which settles a job that ended without its child: killed, over its hard limit, or revoked.

    Every settling is keyed by the job's id, so one that the child has done
    already changes nothing. Exceptions of the store are logged: the parent
    serves the other jobs whatever happens. The message is answered last: a
    worker that dies meanwhile has it delivered again.
    """

    lease_owners: tuple[str, ...] = ()
    """The tokens under which the job's process may hold leases, for the parent to renew."""
    kept_alive: tuple[str, ...] = ()
    """Those, and the job's id, which owns its unique lock; that one is freed when the job ends, not its process."""
    attempt: Mapping[str, str] = MappingProxyType({})
    """The job's id and the token that its attempt is held under, where its starts may be counted."""
    _goes_on = False
    _has_ended = False
    _answer: Callable[[], None] | None = None
    _is_settling = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        has_header = NAME in self.request_dict
        if not (self.task.may_hold_locks or has_header):
            return
        tell_redelivery(self.app, self.request_dict)
        if has_header and is_marked_as_revoked(self.request_dict):
            self._was_revoked_while_it_waited()
        owner = write_owner(self.request_dict, self.id)
        self.lease_owners = self.kept_alive = (owner,)
        if self.task.job_options.unique:
            self.kept_alive = (owner, self.id)
        if self.task.counts_starts or has_header:
            self.attempt = {self.id: owner}

    def _was_revoked_while_it_waited(self) -> None:
        """Have Celery take the job for one that this worker was told to revoke, and not for one that has expired."""
        revoked_jobs.add(self.id)
        self._expires = self._request_dict["expires"] = None

    def revoked(self) -> bool:
        """Whether the job is not to run, as it was revoked or has expired; then that has been seen to.

        Celery looks at it when a message arrives, whatever its ``eta``. One that
        was put back as a copy, to wait while its job runs elsewhere, would be
        put back at once, again and again.
        """
        return not self._waits_in_place() and bool(super().revoked())

    def _waits_in_place(self) -> bool:
        if self._eta is None or not self.attempt or datetime.now(timezone.utc) + _ON_TIME >= self._eta:
            return False
        try:
            return was_kept_waiting(read_header(self.request_dict))
        except InvalidMessageError:
            return False

    def acknowledge(self) -> None:
        """Acknowledge the message, once what it is about has been settled."""
        self._answer_with(super().acknowledge)

    def reject(self, requeue: bool = False) -> None:
        """Remember whether the message comes again, so that its job has not ended."""
        self._goes_on = self._goes_on or requeue
        reject = super().reject
        self._answer_with(lambda: reject(requeue))

    def _answer_with(self, answer: Callable[[], None]) -> None:
        if self._is_settling:
            self._answer = self._answer or answer  # as with Celery, the first one counts
        else:
            answer()

    @contextmanager
    def _answered_last(self) -> Iterator[None]:
        """Keep the message for as long as this takes; Celery would answer it before the job has been settled."""
        if self._is_settling:
            yield
            return
        self._is_settling = True
        try:
            yield
        finally:
            self._is_settling = False
            answer, self._answer = self._answer, None
            if answer is not None:
                answer()

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Let Celery store the failure, then settle the job if its child cannot have done so."""
        with self._answered_last():
            self._on_failure(exc_info, send_failed_event, return_ok)

    def _on_failure(self, exc_info: Any, send_failed_event: bool, return_ok: bool) -> None:
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, (WorkerLostError, Terminated, *_EXITS)):
            self._process_has_ended()  # first: the message may be with another worker in a moment
        if isinstance(error, (WorkerLostError, TimeLimitExceeded, *_EXITS)) and self._ends_by_itself(error):
            return
        if isinstance(error, TimeLimitExceeded) and self._is_left_to_on_timeout():
            return
        super().on_failure(exc_info, send_failed_event, return_ok)
        if self._goes_on and isinstance(error, (WorkerLostError, *_EXITS)):  # of which Celery's line names no job
            logger.warning("Job %s (%s) is put back, as its process is gone: %r", self.id, self.name, error)
        if isinstance(error, _EXITS):
            error = WorkerLostError(f"The worker's process exited: {error!r}.")
        if not isinstance(error, (WorkerLostError, TimeLimitExceeded)):
            return
        if self._goes_on or self._already_cancelled or self._already_revoked:
            return
        self._settle(error)

    def _ends_by_itself(self, error: BaseException) -> bool:
        """Whether the job had succeeded, or had put itself back, before what happened to its process; acted upon.

        The child has told so, or its result is stored: it may have died, or be
        held up for want of the store, before all that follows was done.
        """
        if self._already_cancelled or self._already_revoked or not self.task.is_managed(self._context):
            return False
        ending, result = self._told(), None
        if ending is None:
            since, ignores = self.time_start or 0.0, self.ignore_result
            result = stored_success(self.task, self.id, since=since, ignores_result=ignores)
            ending = None if result is None else Ending.SUCCEEDED
        self._has_ended = ending in {Ending.SUCCEEDED, Ending.PUT_BACK}
        if not self._has_ended:
            return False
        if ending is Ending.PUT_BACK:
            logger.warning("Job %s (%s) had been put back before this: %r", self.id, self.name, error)
            task_ready(self)
            self.acknowledge()
            return True
        logger.warning("Job %s (%s) had succeeded before this: %r", self.id, self.name, error)
        if self._settle(None) or not self.task.acks_late:
            self.on_success((False, saferepr((result or {}).get("result")), None))
        else:  # or its end would be lost
            task_ready(self)
            self.reject(requeue=True)
        return True

    def _told(self) -> Ending | None:
        """How far the child has told to have come with the job's end."""
        return told(self.lease_owners[0]) if self.lease_owners else None

    def _success_was_stored(self) -> Any:
        """Tell Celery 5.7, which asks when a process is lost, what has been found out before."""
        if self.task.is_managed(self._context):
            return False
        return super()._success_was_stored()

    def _retry_worker_lost(self, exc: Any, exc_info: Any) -> Any:
        """Remember that Celery has sent the job again by itself (``retry_on_worker_lost`` of Celery 5.7)."""
        self._goes_on = bool(super()._retry_worker_lost(exc, exc_info))
        return self._goes_on

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        """Settle a job that was revoked or has expired, unless this is a copy of one that runs, or has ended."""
        if not terminated and self._is_copy():
            return
        with self._answered_last():
            self._end_revoked(reason, terminated, signum, expired)

    def _end_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        """Settle a batch's member or a chain's step that was revoked or has expired; give up lock and starts kept."""
        super()._announce_revoked(reason, terminated, signum, expired)
        if terminated and self.lease_owners:
            leases.leave(self)
        if self.task.is_followed(self._context):
            self._settle(TaskRevokedError(reason))
            return
        self._free_unique_lock()
        self.task.give_up_slots_of(self._context)

    def _is_copy(self) -> bool:
        """Whether the message has come before, and its job runs elsewhere or has ended; then it is seen to.

        A copy of one that runs goes back to its queue: should that worker die, it is the only one left.
        """
        if not self.attempt:
            return False
        copy = self.task.find_other_start(self._context)
        if copy is None:
            return False
        self._already_revoked = True
        task_ready(self)
        if isinstance(drop(self.task, self._context, copy), Reject):
            self.reject(requeue=True)
        else:
            self.acknowledge()
        return True

    def _announce_cancelled(self, *args: Any, **kwargs: Any) -> None:
        """Keep the leases of a job whose process has been told to end, because the broker is gone, until it has."""
        super()._announce_cancelled(*args, **kwargs)
        if self.lease_owners:
            leases.leave(self)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Let Celery store the failure, once, and settle the job; the process over its hard limit is killed after this.

        Celery tells of a hard limit twice, here and in `on_failure`: link_error
        would be called twice, and ``task_failure`` sent twice.
        """
        if soft or not self.task.is_managed(self._context):
            super().on_timeout(soft, timeout)
            return
        if self.lease_owners:
            leases.leave(self)
        if self._has_ended:
            logger.error("Hard time limit (%ss) exceeded for %s[%s] after its end", timeout, self.name, self.id)
        elif self._is_put_back_by_limit():
            logger.error("%s[%s] has swallowed its timeout; its process is killed", self.name, self.id)
            task_ready(self)
            self.reject(requeue=True)
        elif TIMEOUT_IS_FAILURE:
            with self._answered_last():
                super().on_timeout(soft, timeout)
                self._settle(TimeLimitExceeded(timeout))
        else:
            logger.error("Hard time limit (%ss) exceeded for %s[%s]", timeout, self.name, self.id)

    def _is_left_to_on_timeout(self) -> bool:
        """Whether Celery's `on_failure`, which is called first, would tell everybody what `on_timeout` tells again."""
        return self._is_put_back_by_limit() or (TIMEOUT_IS_FAILURE and self.task.is_managed(self._context))

    def _is_put_back_by_limit(self) -> bool:
        """Whether the hard limit only backs a timeout of a job that may be tried again, whose starts are counted."""
        is_own = getattr(self.task, "has_backstop", False) and not self.time_limits[0]
        options = self.task.job_options
        return bool(is_own and self.task.counts_starts and options.limits_attempts and not options.fail_on_timeout)

    def end_leases(self) -> None:
        """End the attempt and free the locks of the job's process, which is gone; a store that fails is logged."""
        leases.left(self)
        try:
            self.task.end_leases_of(self.attempt, self.lease_owners)
        except Exception:
            logger.exception("The leases of job %s (%s), whose process is gone, end by themselves", self.id, self.name)

    def _process_has_ended(self) -> None:
        if not self.lease_owners:
            return
        if leases.is_alive(self.worker_pid):
            leases.leave(self)
        else:
            self.end_leases()

    def _free_unique_lock(self) -> None:
        try:
            self.task.free_unique_lock_of(self._context)
        except Exception:
            logger.exception("The unique lock of job %s (%s), which was revoked, is kept", self.id, self.task.name)

    def _settle(self, error: Exception | None) -> bool:
        """Settle the job; False when that has failed, or nobody has taken note of a success.

        What the child tells is asked for again: the job may have ended
        meanwhile, or before it was revoked.
        """
        ending = self._told()
        if ending is Ending.PUT_BACK:
            return True
        error = None if ending is Ending.SUCCEEDED else error
        try:
            return bool(self.task.settle_without_child(self._context, error, ending))
        except Exception:
            logger.exception("Job %s (%s) ended without its process and could not be settled", self.id, self.task.name)
            return False
