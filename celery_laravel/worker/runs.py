"""The ways in which an attempt comes to run: for a worker, eagerly, in a caller, or as a plain task."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

from celery_laravel import events
from celery_laravel.attempt.outcome import Failed, Outcome, PassedOn, Released, outage_wait
from celery_laravel.attempt.running_job import RUNNING, RunningJob
from celery_laravel.errors import ConfigurationError, JobReleasedError, MaxAttemptsExceededError, StoreUnavailableError
from celery_laravel.message.header import with_header
from celery_laravel.worker.admission import admit
from celery_laravel.worker.conclusion import conclude, drop, put_back_unstarted
from celery_laravel.worker.ended_before import ended_before
from celery_laravel.worker.executor import CELERYS_OWN
from celery_laravel.worker.starting import NotStarted, store_start

if TYPE_CHECKING:
    from datetime import timedelta

    from celery_laravel.worker.executor import Executor
    from celery_laravel.worker.settlement import Settlement

logger = logging.getLogger(__name__)

_EAGER_TURNS = 1000
"""How often an eager job may put itself back before that is taken for a loop without end."""


class Runs:
    """Runs jobs whose request is on top of their task's stack. What they return or raise is Celery's to act upon."""

    def __init__(self, executor: Executor, settlement: Settlement, *, keep_ended: timedelta) -> None:
        self._executor = executor
        self._settlement = settlement
        self._keep_ended = keep_ended

    def managed(self, task: Any, request: Any, args: Any, kwargs: Any, *, keeps_record: bool) -> Any:
        """Run an attempt of a job: begin, work, conclude. One of an eager job is followed by the next at once."""
        request.__dict__[RUNNING] = None
        try:
            running = self._executor.begin(task, request)
        except (StoreUnavailableError, ConfigurationError, SoftTimeLimitExceeded) as error:  # all can be mended
            raise put_back_unstarted(task, request, error) from error
        if isinstance(running, NotStarted):
            raise drop(task, request, running)
        running.is_managed = keeps_record
        request.__dict__[RUNNING] = running
        is_used_up = self._executor.is_used_up(running)
        known = ended_before(task, request, running, is_used_up=is_used_up, keep_ended=self._keep_ended)
        if isinstance(known, NotStarted):
            self._settlement.abandoned(running)
            raise drop(task, request, known)
        if known is not None:
            running.outcome = known
            return conclude(task, request, self._settlement, running, known, (args, kwargs))
        if running.is_durable:
            store_start(task, request)
        outcome, args, kwargs = self._run(task, request, running, args, kwargs)
        if request.is_eager:
            running, outcome = self._eagerly(task, request, running, outcome, args, kwargs)
        return conclude(task, request, self._settlement, running, outcome, (args, kwargs))

    def plainly(self, task: Any, request: Any, args: Any, kwargs: Any) -> Any:
        """Run a task that declares nothing; it has an outcome only if it spoke up (`release`, `fail`, `delete`)."""
        request.__dict__[RUNNING] = None
        try:
            value = task.run_code(*args, **kwargs)
        except CELERYS_OWN:
            raise
        except Exception as error:
            running = request.__dict__[RUNNING]
            if running is None:
                raise
            outcome = self._executor.judge(task, running, args, kwargs, error=error)
        else:
            running = request.__dict__[RUNNING]
            if running is None:
                return value
            outcome = self._executor.judge(task, running, args, kwargs, value=value)
        finally:
            if request.__dict__[RUNNING] is not None:
                self._settlement.free_locks(request.__dict__[RUNNING])
        return conclude(task, request, self._settlement, running, outcome, (args, kwargs))

    def in_caller(self, task: Any, request: Any, args: Any, kwargs: Any, *, keeps_record: bool) -> Any:
        """Run the one attempt of ``dispatch_sync``, and return or raise what its caller is to see."""
        running = self._executor.begin(task, request, is_sync=True)
        assert isinstance(running, RunningJob), "a job that runs in its caller has no copies"
        running.is_managed = keeps_record
        request.__dict__[RUNNING] = running
        outcome, args, kwargs = self._run(task, request, running, args, kwargs)
        if isinstance(outcome, PassedOn):
            raise outcome.error
        if isinstance(outcome, Released):
            running.is_settled = True
            msg = f"{task.name} was released for {outcome.delay:g} s, and dispatch_sync has no queue."
            raise JobReleasedError(msg, outcome.delay)
        if isinstance(outcome, Failed):
            self._settlement.failed(task, request, running, outcome.error, args, kwargs)
            if running.raised is not None and running.raised is outcome.error:
                raise outcome.error
            return None
        self._settlement.succeeded(task, running, args, kwargs)
        return outcome.value

    def _run(self, task: Any, request: Any, running: RunningJob, args: Any, kwargs: Any) -> tuple[Outcome, Any, Any]:
        """Run an attempt, and free its locks however its code ended: by an exception that ends the process, too.

        Returns the outcome, and the arguments that the attempt ran with.
        """
        try:
            outcome, args, kwargs = admit(task, request, running, args, kwargs)
            if outcome is None and self._executor.is_used_up(running):
                outcome = self._succeeded_before(request, running)
            if outcome is None:
                outcome = self._executor.run(task, running, args, kwargs)
            running.outcome = outcome
            return outcome, args, kwargs
        except BaseException:  # the process, thread or greenlet is to end, and the message comes again
            self._settlement.abandoned(running)
            raise
        finally:
            self._settlement.free_locks(running)

    def _succeeded_before(self, request: Any, running: RunningJob) -> Outcome | None:
        try:
            return self._settlement.succeeded_before(request, running)
        except StoreUnavailableError as error:
            logger.error("Job %s has to wait, because the store does not answer: %s", running.id, error)  # noqa: TRY400
            return Released(outage_wait(), counts=False)

    def _eagerly(  # noqa: PLR0917  the parts of one attempt
        self, task: Any, request: Any, running: RunningJob, outcome: Outcome, args: Any, kwargs: Any
    ) -> tuple[RunningJob, Outcome]:
        """Run the attempts after the first at once, as there is no queue to wait in; return the last one's outcome."""
        for _ in range(_EAGER_TURNS):
            if not isinstance(outcome, Released):
                return running, outcome
            header = self._settlement.released(running, outcome)
            details = {"task_id": running.id, "args": args, "kwargs": kwargs, "delay": outcome.delay}
            events.send(events.job_released, task, **details)
            request.headers = with_header(request.headers, header)
            following = self._executor.begin(task, request)
            assert isinstance(following, RunningJob), "an eager job has no copies"
            following.is_managed = running.is_managed
            running = request.__dict__[RUNNING] = following
            outcome, args, kwargs = self._run(task, request, running, args, kwargs)
        if isinstance(outcome, Released):
            endless = f"{task.name} has put itself back {_EAGER_TURNS} times in eager mode, where no time passes."
            running.outcome = outcome = Failed(MaxAttemptsExceededError(endless))
        return running, outcome
