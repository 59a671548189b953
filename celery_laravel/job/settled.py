"""What the worker's parent does about a job whose own process cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from celery_laravel import events
from celery_laravel.attempt import leases, unique
from celery_laravel.attempt.outcome import outage_wait
from celery_laravel.attempt.running_job import RUNNING
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.job.own_tasks import announce
from celery_laravel.job.speaking import SpeakingJob
from celery_laravel.message.header import has_header
from celery_laravel.worker.admission import last_known_arguments, waiting
from celery_laravel.worker.conclusion import unstarted
from celery_laravel.worker.endings import Ending
from celery_laravel.worker.redelivery import has_come_before
from celery_laravel.worker.starting import NotStarted, find_other_start

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery_laravel.runtime import Runtime


class SettledJob(SpeakingJob):
    """A task that the worker's parent can settle: revoked, expired, over its hard limit, its process lost."""

    abstract = True
    _declares_nothing: ClassVar[bool] = True
    _is_builtin: ClassVar[bool] = False

    def is_followed(self, request: Any) -> bool:
        """Whether a batch or a chain's ``catch`` waits for a request's job, as far as its message tells."""
        return unstarted(self, request).header.is_followed

    @property
    def counts_starts(self) -> bool:
        """Whether every start of the job is written down, so that a crash counts and no copy starts beside it."""
        return bool(self.acks_late and self.job_options.outlives_worker)

    def find_other_start(self, request: Any) -> NotStarted | None:
        """Why a message that was revoked or has expired is a copy of a job that runs, or has ended; else None.

        Only one that has come before can be, so that of all others nothing is
        asked. While the store is away that cannot be told, and the message waits.
        """
        header = unstarted(self, request).header
        if not (has_come_before(request) or header.waits):
            return None
        try:
            return find_other_start(self._runtime.store, request.id, header)
        except StoreUnavailableError as away:
            return NotStarted(f"the store does not answer: {away}", (waiting(header), outage_wait()))

    def end_leases_of(self, attempts: Mapping[str, str], owners: Iterable[str]) -> None:
        """End attempts, given as job id to owner, and free the owners' locks, their process being gone.

        The attempts may not be written down at all, and the locks not taken.
        """
        store = self._runtime.store
        for job_id, owner in attempts.items():
            leases.end_attempt(store, job_id, owner)
        for owner in owners:
            store.locks.release_all(owner)

    def free_unique_lock_of(self, request: Any) -> None:
        """Free the lock of a unique job that has been revoked or has expired."""
        unique.free(self, unstarted(self, request))

    def give_up_slots_of(self, request: Any) -> None:
        """Give up the starts that limiters keep for a job that has been revoked or has expired."""
        self._runtime.settlement.give_up_slots(unstarted(self, request))

    def settle_without_child(self, request: Any, error: Exception | None, told: Ending | None = None) -> bool:
        """Settle a job in the worker's parent, its own process being gone; without ``error`` it had succeeded.

        None of the users' code runs here: the ``failed`` hook, and receivers of
        signals, are called by a job of their own, save for those that the job's
        process has ``told`` to have called. False when neither the store nor the
        broker has taken note of a success.
        """
        runtime = self._runtime
        if self._is_plain(request, runtime):
            return True
        is_taken = True
        running = unstarted(self, request)
        header = running.header
        running.is_durable = self.counts_starts or header.is_counted or header.callback is not None
        running.is_orphan = True
        args, kwargs = tuple(request.args or ()), dict(request.kwargs or {})
        self.push_request(**vars(request))
        try:
            top = self.request_stack.top
            top.__dict__[RUNNING] = running
            args, kwargs = last_known_arguments(self, top, running, args, kwargs)
            with events.withheld() as withheld:
                if error is None:
                    is_taken = runtime.settlement.succeeded(self, running, args, kwargs)
                elif told is not Ending.ANNOUNCED:  # its record may have been retried since
                    runtime.settlement.failed(self, top, running, error, args, kwargs)
            announce(self, top, running, error, withheld, told=told)
            if error is not None:  # after all else: a worker that dies before leaves a job that is picked up again
                runtime.settlement.finished(self, running)
        finally:
            self.pop_request()
        return is_taken

    def is_managed(self, request: Any) -> bool:
        """Whether anything asks for this library: an option, a default, or the request's header."""
        return not self._is_plain(request, self._runtime)

    def _is_plain(self, request: Any, runtime: Runtime) -> bool:
        """Whether nothing asks for this library: no option, no default, no header."""
        if has_header(request.headers):
            return False
        return self._is_builtin or (self._declares_nothing and not runtime.defaults.manage_every_job)
