"""What is still to be written down of a job that has ended: kept until its store takes it.

A store may go away while a job runs. The job's end cannot be had a second time,
so it is not let go of: the process that ran the job tries again for a while, and
then hands what is owed to the broker, as a message of a task of the library's
own (`SETTLE`), which any worker works off when the store is back. While
neither answers, it goes on trying, and the job's message is not acknowledged: should the
process be killed meanwhile, the message comes again.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from celery_laravel import clock
from celery_laravel.attempt import unique
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.message.debts import SETTLE
from celery_laravel.message.resend import delivery_options
from celery_laravel.stores.dispatch_ends import end_dispatch
from celery_laravel.stores.records import AttemptEnd, DispatchEnd, FailedJob, MemberEnd, MemberState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta

    from celery import Celery

    from celery_laravel.stores.contracts import FailedJobStore, Store
    from celery_laravel.worker.batch import BatchCallbacks
    from celery_laravel.worker.chains import ChainCatches

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds for which the process that ran a job tries to reach the store before it asks the broker."""
_OUTAGES = (StoreUnavailableError, OperationalError)
"""The second is the broker's, which has not taken what a failure or a batch sends."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0


class Payment(Enum):
    """Who has taken a debt."""

    PAID = "the store"
    KEPT = "the broker, until the store is back"
    OWED = "nobody"


@dataclass(frozen=True)
class Debt:
    """Parts of a job's settling, as data. To pay one twice changes nothing the second time.

    ``unlock`` are the keys of the unique lock that the job holds; ``chain`` is
    the chain that is to catch ``error``, as its header says; ``record`` is to be
    kept among the failed jobs. ``succeeded`` are the members of a pack of the
    batch ``batch_id`` that are to be counted together. ``dispatch`` is the end of
    the dispatch of the batch ``job_id``, which its producer could not write down.
    """

    job_id: str
    task: str
    unlock: tuple[str, ...] = ()
    member: MemberEnd | None = None
    attempt: AttemptEnd | None = None
    chain: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    record: FailedJob | None = None
    batch_id: str | None = None
    succeeded: tuple[int, ...] = ()
    dispatch: DispatchEnd | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to pay."""
        owed = (self.unlock, self.member, self.attempt, self.chain, self.record, self.succeeded, self.dispatch)
        return not any(owed)

    def encode(self) -> dict[str, Any]:
        """The debt as plain values, for a message; what is not owed is left out."""
        data = {key: value for key, value in asdict(self).items() if value}
        if self.record is not None:
            data["record"]["failed_at"] = self.record.failed_at.timestamp()
        return data

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Debt:
        """The debt that `encode` made plain values of."""
        values = dict(data)
        values["unlock"] = tuple(values.get("unlock", ()))
        values["succeeded"] = tuple(values.get("succeeded", ()))
        if member := values.get("member"):
            state, skips = MemberState(member["state"]), tuple(member["skips"])
            values["member"] = MemberEnd(**{**member, "state": state, "skips": skips})
        if attempt := values.get("attempt"):
            values["attempt"] = AttemptEnd(**attempt)
        if record := values.get("record"):
            values["record"] = FailedJob(**{**record, "failed_at": clock.as_datetime(record["failed_at"])})
        if dispatch := values.get("dispatch"):
            values["dispatch"] = DispatchEnd.decode(dispatch)
        return cls(**values)


class Debts:
    """Writes down what is owed, at once or when the store is back."""

    def __init__(
        self,
        app: Celery,
        stores: tuple[Callable[[], Store], Callable[[], FailedJobStore]],
        callbacks: BatchCallbacks,
        chains: ChainCatches,
        *,
        keep_ended: timedelta,
    ) -> None:
        self._app = app
        self._store, self._failed_jobs = stores
        self._callbacks = callbacks
        self._chains = chains
        self._keep_ended = keep_ended

    def pay(self, debt: Debt) -> None:
        """Write down what is owed, now.

        Raises:
            StoreUnavailableError: A store did not answer; all of it is still owed.
            OperationalError: The broker did not, which was to send what catches the failure; likewise.
        """
        if debt.unlock:
            task = self._app.tasks.get(debt.task)
            if task is None:
                unique.free_of_unknown_task(self._app, debt.unlock, owner=debt.job_id)
            else:
                unique.store_for(task).locks.release(debt.unlock, owner=debt.job_id)
        if debt.member is not None or debt.attempt is not None:
            change = self._store().settle(member=debt.member, attempt=debt.attempt, keep=self._keep_ended)
            self._callbacks.after(change)
        if debt.batch_id is not None:
            self._callbacks.after(self._store().batches.end_members(debt.batch_id, debt.succeeded))
        if debt.dispatch is not None:
            for change in end_dispatch(self._store().batches, debt.dispatch):
                self._callbacks.after(change)
        if debt.chain is not None:
            self._chains.caught(debt.chain, debt.error or {}, owner=debt.job_id)
        if debt.record is not None:
            self._failed_jobs().record(debt.record)

    def record_of(self, job_id: str) -> FailedJob | None:
        """The record of a failed job, if it has been kept."""
        return self._failed_jobs().find(job_id)

    def pay_surely(self, debt: Debt, request: Any, *, patience: float, gives_up: bool) -> Payment:
        """Pay a debt of the running job, whose message is ``request``'s, and return who has taken it.

        The store is tried alone for ``patience`` seconds, and the broker beside
        it from then on. Returns when either has taken the debt, or when neither
        has and the caller ``gives_up``, because it cannot wait (that is logged).
        A job's time limit does not hold for this, as its code has ended.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return self._insist(debt, request, deadline, gives_up=gives_up)
            except SoftTimeLimitExceeded:
                continue

    def _insist(self, debt: Debt, request: Any, deadline: float, *, gives_up: bool) -> Payment:
        pause, is_told = _SHORTEST_PAUSE, False
        while True:
            try:
                self.pay(debt)
            except _OUTAGES as error:
                if time.monotonic() >= deadline:
                    if self._hand_over(debt, request, error, is_told=is_told):
                        return Payment.KEPT
                    if gives_up:
                        return Payment.OWED
                    is_told = True
            else:
                if is_told:
                    logger.warning("The end of job %s (%s) is written down now", debt.job_id, debt.task)
                return Payment.PAID
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _hand_over(self, debt: Debt, request: Any, error: Exception, *, is_told: bool) -> bool:
        """Give a debt to the broker; a broker that is away is told of once, as the caller may ask it for hours."""
        try:
            self._app.tasks[SETTLE].apply_async((debt.encode(),), **delivery_options(request))
        except SoftTimeLimitExceeded:
            raise
        except Exception as refusal:
            if not is_told:
                logger.error(  # noqa: TRY400  an outage has no traceback
                    "Job %s (%s) has ended, and neither the store (%s) nor the broker (%s) takes note of it",
                    debt.job_id,
                    debt.task,
                    error,
                    refusal,
                    exc_info=None if isinstance(refusal, OperationalError) else refusal,
                )
            return False
        logger.error(
            "Job %s (%s) has ended; the broker keeps that until the store is back: %s", debt.job_id, debt.task, error
        )
        return True
