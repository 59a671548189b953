"""What follows an attempt's outcome, in order, each step kept apart from the others' exceptions."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore

from celery_laravel import events
from celery_laravel.attempt import leases, unique
from celery_laravel.attempt.outcome import Deleted, Failed, PassedOn, Succeeded
from celery_laravel.errors import MaxAttemptsExceededError
from celery_laravel.message.exceptions import exception_to_data
from celery_laravel.stores.records import AttemptEnd
from celery_laravel.telling import log_failure
from celery_laravel.worker import batch, debts, failed_jobs
from celery_laravel.worker.debts import Debt, Debts, Payment
from celery_laravel.worker.endings import Ending, tell
from celery_laravel.worker.starting import KEEP_OPEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_laravel.attempt.outcome import Outcome, Released
    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.message.header import Header
    from celery_laravel.stores.contracts import Store
    from celery_laravel.worker.chains import ChainCatches

logger = logging.getLogger(__name__)

_OF_A_LOST_PROCESS = (TimeLimitExceeded.__name__, WorkerLostError.__name__)


class Settlement:
    """Settles attempts: counts, hooks, records and signals.

    Everything here may be done twice for the same job and changes nothing the
    second time, save the ``failed()`` hook and the signals, which a crash
    between the hook and the record lets happen again.
    """

    def __init__(self, store: Callable[[], Store], debts: Debts, chains: ChainCatches) -> None:
        self._store = store
        self._debts = debts
        self._chains = chains

    def free_locks(self, running: RunningJob) -> None:
        """Free the locks of an attempt whose code has ended; a second time there is nothing to free.

        This comes before everything that follows from the outcome, so that the
        next step of a chain, or the job itself when it comes back, finds them
        free. A store that fails changes no outcome: leases end by themselves.
        """
        if running.header.unique is not None:
            leases.let_go(running.id)
        if running.locks:
            with _isolated(running, "freeing its locks"):
                leases.free(self._store(), running)

    def free_unique_lock(self, task: Any, running: RunningJob, *, soon: bool = False) -> None:
        """Free the unique lock of a job that has ended, so that what follows may dispatch it again. Twice is once."""
        if running.header.unique is not None and not running.is_unlocked:
            with _isolated(running, "freeing its unique lock"):
                unique.free(task, running, soon=soon)

    def extend_chain(self, request: Any, running: RunningJob) -> None:
        """Put what the job said is to follow into its chain, which Celery goes on with once it has returned."""
        with _isolated(running, "changing its chain"):
            self._chains.extend(request, running)

    def reopen_chain(self, request: Any, running: RunningJob) -> None:
        """Let the next step start where an earlier failure of this one has kept it from that."""
        with _isolated(running, "letting its chain go on"):
            self._chains.reopen(request, running)

    def succeeded_before(self, request: Any, running: RunningJob) -> Outcome | None:
        """The outcome of a job without attempts left whose chain has gone on, so that it had succeeded; else None.

        Its result was stored when that happened, or is lost with the process.

        Raises:
            StoreUnavailableError: It cannot be told, and the job is to come again.
        """
        if not self._chains.has_gone_on(request, running):
            return None
        logger.warning("Job %s lost its worker after its success: its chain has gone on", running.id)
        return PassedOn(Ignore("it had succeeded before its worker was lost"))

    def give_up_slots(self, running: RunningJob) -> None:
        """Give up the starts that limiters keep for a job that has ended without coming for them: seldom any."""
        slots, running.slots = running.slots, {}
        for name, keys in slots.items():
            with _isolated(running, "giving up the start that a limiter keeps for it"):
                self._store().limits.cancel(name, keys, caller=running.id)

    def succeeded(self, task: Any, running: RunningJob, args: Any, kwargs: Any) -> bool:
        """Settle a job that is done: in one call of the store its batch counts it and its last turn ends.

        False when neither the store nor the broker has taken note of it.
        """
        self._tell(running, Ending.SUCCEEDED)
        running.is_settled = True
        is_taken = True
        self.free_unique_lock(task, running, soon=True)
        self.give_up_slots(running)
        member, attempt = batch.succeeded(running), self._end(running)
        if member is not None and attempt is None and running.place is not None:
            running.place.count(member.index)
        else:
            debt = self._debt(task, running, member=member, attempt=attempt)
            is_taken = self._pay(task, running, debt, "counting it and ending its turn")
        events.send(events.job_processed, task, task_id=running.id, args=args, kwargs=kwargs)
        return is_taken

    def failed(  # noqa: PLR0917  the parts of one attempt
        self, task: Any, request: Any, running: RunningJob, error: BaseException, args: Any, kwargs: Any
    ) -> None:
        """Settle a job that failed for good: unique lock, batch, chain, hook, record and signal, in that order.

        The hook is the user's code, which has no business in the worker's parent.
        Its turn is left open (`finished`), so that a worker that dies before
        Celery has stored the failure leaves a job that is picked up again and
        found to have used up its attempts.
        """
        running.is_settled = True
        self.free_unique_lock(task, running)
        self.give_up_slots(running)
        self._pay(task, running, self._debt(task, running, member=batch.failed(running, request, error)), "counting it")
        if running.header.chain is not None:
            caught = self._debt(task, running, chain=running.header.chain, error=exception_to_data(error))
            self._pay(task, running, caught, "having its chain catch it")
        hook = running.options.failed
        if hook is not None and not running.is_orphan and not self._was_hooked(running, error):
            with _isolated(running, "its failed() hook"):
                hook(task, error, *args, **kwargs)
        self._tell(running, Ending.HOOK_CALLED)
        if running.is_managed and (running.is_sync or not request.is_eager):
            self._keep_record(task, request, running, error)
        events.send(events.job_failed, task, task_id=running.id, args=args, kwargs=kwargs, exception=error)
        self._tell(running, Ending.ANNOUNCED)

    def finished(self, task: Any, running: RunningJob) -> None:
        """End the last turn of a job that failed, now that Celery knows of it."""
        self._pay(task, running, self._debt(task, running, attempt=self._end(running)), "ending its turn")

    def released(self, running: RunningJob, outcome: Released) -> Header:
        """End a turn whose job goes on, and return the header for the message that puts it back.

        The store knows of the next turn before its message is sent: should the
        worker die in between, the copy of the old message that comes again is
        recognised and the next one sent in its place.
        """
        header = running.put_back(counts=outcome.counts, after_exception=outcome.error is not None)
        if running.is_durable or running.header.is_counted:  # a pack that comes again has to know that it has left
            end = AttemptEnd(running.id, running.header.turn, False, header.attempts, header.exceptions, outcome.delay)
            with _isolated(running, "writing down that it was put back"):
                self._store().settle(member=None, attempt=end, keep=KEEP_OPEN)
        running.is_settled = True
        return header

    def put_back(self, running: RunningJob) -> None:
        """Take note that the message which puts the job back is on its way."""
        self._tell(running, Ending.PUT_BACK)

    def forgotten(self, running: RunningJob) -> None:
        """Drop what the store knows of a job that Celery goes on with by itself under the same id."""
        running.is_settled = True
        self.give_up_slots(running)
        if running.is_durable:
            with _isolated(running, "forgetting its attempts"):
                self._store().attempts.forget(running.id)

    def abandoned(self, running: RunningJob) -> None:
        """End the lease of a start that comes to no end of its own, so that the next one need not wait for it.

        The start counts. Should the store not answer, the lease runs out.
        """
        if running.is_durable:
            with _isolated(running, "ending its lease"):
                leases.end_attempt(self._store(), running.id, running.owner)

    def after_trace(self, task: Any, request: Any, running: RunningJob, error: BaseException | None) -> None:
        """Settle what Celery's own ending decides: called when it has stored the result and sent what follows.

        A job whose code succeeded may still fail here, because its result
        cannot be encoded or the next step of its chain cannot be sent.
        """
        args, kwargs = request.args or (), request.kwargs or {}
        if isinstance(running.outcome, (Succeeded, Deleted)) and not running.is_settled and error is None:
            self.succeeded(task, running, args, kwargs)
        elif error is not None and not running.is_settled:
            running.outcome = Failed(error)
            self.failed(task, request, running, error, args, kwargs)
        if isinstance(running.outcome, Failed):
            self.finished(task, running)

    def _was_hooked(self, running: RunningJob, error: BaseException) -> bool:
        """Whether the job had failed before, and its worker died before it had ended the turn.

        The record tells so, which is kept when the hook has been called; but
        that of a job whose process was gone is kept before.
        """
        if running.code_ran or not running.is_durable or not isinstance(error, MaxAttemptsExceededError):
            return False
        record = None
        with _isolated(running, "looking for its record"):
            record = self._debts.record_of(running.id)
        if record is None or record.claimed_until is not None:
            return False
        return not record.exception.startswith(_OF_A_LOST_PROCESS)

    def _keep_record(self, task: Any, request: Any, running: RunningJob, error: BaseException) -> None:
        with _isolated(running, "keeping its record"):
            record = failed_jobs.capture(task, request, running, error)
            self._pay(task, running, self._debt(task, running, record=record), "keeping its record")

    def _debt(self, task: Any, running: RunningJob, **parts: Any) -> Debt:
        """Parts of a job's settling as data, with the unique lock that could not be freed before."""
        is_free = running.is_unlocked or running.is_handed_on
        return Debt(running.id, task.name, unlock=() if is_free else tuple(unique.keys_of(running)), **parts)

    def _tell(self, running: RunningJob, ending: Ending) -> None:
        """Tell the worker's parent, which may have to end what this process has begun."""
        if not running.is_orphan:
            tell(running.owner, ending)

    def _pay(self, task: Any, running: RunningJob, debt: Debt, step: str) -> bool:
        """Write down what must not be lost, or have it kept until it can be; False when nobody takes it."""
        if debt.is_nothing:
            return True
        with _isolated(running, step):
            request = task.request_stack.top
            patience = 0.0 if running.is_orphan or running.is_owed else debts.PATIENCE
            gives_up = running.is_orphan or bool(request.is_eager)
            payment = self._debts.pay_surely(debt, request, patience=patience, gives_up=gives_up)
            running.is_owed = running.is_owed or payment is not Payment.PAID
            running.is_unlocked = running.is_unlocked or bool(debt.unlock)
            return payment is not Payment.OWED
        return False

    def _end(self, running: RunningJob) -> AttemptEnd | None:
        if not running.is_durable:
            return None
        return AttemptEnd(running.id, running.header.turn, True, running.counts.attempt, running.counts.exceptions)


@contextlib.contextmanager
def _isolated(running: RunningJob, step: str) -> Iterator[None]:
    """Keep a step's exception from the steps after it and from the job's outcome; log it with the job's id."""
    try:
        yield
    except Exception as error:
        log_failure(logger, error, "Job %s: %s failed; its outcome stands", running.id, step)
