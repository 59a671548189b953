"""The deliberate differences from Laravel, as rules: what this library does with a scenario.

Each method says which of the numbered differences in README.md it stands for.
What is not written here is as in Laravel (version 13 where that differs from 8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from celery_laravel.errors import JobReleasedError, JobTimedOutError, ManuallyFailedError, MaxAttemptsExceededError
from tests.parity.differences_batches import BatchesHere
from tests.parity.differences_copies import CopiesHere, original_of
from tests.parity.differences_limits import LimitsHere
from tests.parity.laravel_records import Job, Run
from tests.parity.scenario import Scenario

MOST_STARTS = 3
"""How often a member that declares no limit is started when its worker is lost each time."""


class Here(LimitsHere, CopiesHere, BatchesHere):
    """What this library does; ``asked_for`` is what of it no version has yet."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario, version=13)
        self.asked_for: set[str] = set()

    def option(self, label: str, name: str) -> Any:
        """An option of the class: of its labels the first that declares it speaks for all."""
        labels = self.scenario.labels_of(self.job(label).class_name)
        return next((found for label in labels if (found := self.job(label).option(name)) is not None), None)

    def used_up(self) -> Exception:
        return MaxAttemptsExceededError()

    # -- 1, 2, 18: what an attempt says takes effect when it ends, and it has one outcome

    def said_release(self, run: Run, seconds: float) -> None:
        if not (run.is_failed or run.is_deleted):
            run.released, run.counts = seconds, True

    def said_fail(self, run: Run, error: Exception | None) -> None:
        if not (run.is_failed or run.is_deleted):
            run.is_failed = True
            run.failure = error or ManuallyFailedError()  # 9

    def said_delete(self, run: Run) -> None:
        if not run.is_failed:
            run.is_deleted = True

    def attempt(self, run: Run) -> None:
        if self.is_used_up(run.job):
            self.note("exception", job=run.job.label, type="MaxAttemptsExceededError")
            self.settle_failure(run, self.used_up())
            return
        error = self.error_of(run)
        self.attempt_ended(run)
        if error is not None:
            run.job.exceptions += 1
        self.settle(run, error)

    def settle(self, run: Run, error: Exception | None) -> None:
        job = run.job
        if run.failure is not None:
            self.settle_failure(run, run.failure)
        elif run.is_deleted:
            self.done(run)
        elif error is not None and (self.is_last(job) or self.fails_on(job, error)):
            self.settle_failure(run, error)
        elif error is not None:
            self.put_back(run, self.backoff_of(job) if run.released is None else run.released)
        elif run.released is not None:
            job.attempts -= not run.counts
            self.put_back(run, run.released)
        else:
            self.done(run)

    def put_back(self, run: Run, seconds: float) -> None:
        self.check_that_no_copy_is_ready(run.job)
        run.job.came_again = False
        super().put_back(run, seconds)

    def fails_on(self, job: Job, error: Exception) -> bool:
        return isinstance(error, JobTimedOutError) and bool(self.option(job.label, "fail_on_timeout"))

    def sleep(self, label: str, seconds: float) -> None:
        """A timeout is an exception like any other."""
        limit = self.option(label, "timeout")
        if limit is not None and limit < seconds:
            raise JobTimedOutError

    def error_of(self, run: Run) -> Exception | None:
        """What the job's code raised, announced whatever else the attempt said."""
        try:
            self.send_through(run)
        except Exception as error:
            self.note("exception", job=run.job.label, type=type(error).__name__)
            return error
        return None

    def dispatch_sync(self, label: str) -> None:
        run = Run(self, self.new_job(label), attempts=1, is_sync=True)
        error = self.error_of(run)
        self.attempt_ended(run)
        if run.failure is not None:
            self.settle_failure(run, run.failure)
        elif error is not None and not run.is_deleted:
            self.settle_failure(run, error)
            raise error
        elif run.released is not None and not run.is_deleted:
            raise JobReleasedError(delay=run.released)  # 13
        else:
            self.done(run)

    def settle_failure(self, run: Run, error: BaseException) -> None:
        """10: every hook runs, and the job's own exception stays the reason."""
        job = run.job
        self.job_ended(run)
        if job.batch is not None:
            self.member_failed(job, error)
        self.due += [partial(self.callback, "chain.catch", callback, error, None) for callback in job.catch]
        self.isolated(partial(self.failed_hook, job.label, error))
        kind = type(error).__name__
        self.note("failed", job=job.label, type=kind)
        if self.keeps_records(run):
            self.failures.append((job, kind))

    def job_ended(self, run: Run) -> None:
        """Before anything else: what the job held is free for those that come after it."""
        run.job.is_over = True
        self.free_unique(run)
        self.give_up_slots(run.job)

    def done(self, run: Run) -> None:
        self.job_ended(run)
        self.succeed(run.job)

    # -- crashes

    def survives(self, job: Job) -> bool:
        """Whether a job comes back when its worker is lost; one that declares nothing does not, as under Celery."""
        return self.is_followed(job) or self.declares_a_limit(job)

    def is_followed(self, job: Job) -> bool:
        return job.batch is not None or bool(job.catch)

    def declares_a_limit(self, job: Job) -> bool:
        declared = ("tries", "max_exceptions", "retry_until_s", "unique")
        return any(self.option(job.label, name) is not None for name in declared)

    def pick_up(self, job: Job) -> Run | None:
        original = original_of(job)
        if any(run.job is original for _, run in self.running) and not self.counts_starts(original):
            self.asked_for.add("a second copy of a running job whose starts are not counted")
        if not self.survives(original):
            self.queues.done(job)
        return super().pick_up(job)

    def pick_up_and_crash(self, queues: Sequence[str]) -> None:
        job = self.queues.pop(queues, self.now)
        if job is not None and self.pick_up(job) is not None:
            self.holder_died(job)
            self.note("popped_and_lost", job=job.label)

    def counts_starts(self, job: Job) -> bool:
        return self.declares_a_limit(job) or (job.came_again and self.is_followed(job))

    def retry(self, job: Job) -> None:
        self.check_that_no_copy_is_ready(job)
        super().retry(job)

    def check_that_no_copy_is_ready(self, job: Job) -> None:
        """The model's queues hold one object for all messages of a job, and cannot tell this one from the next."""
        if self.queues.is_ready(job):
            self.asked_for.add("a copy that is ready while its job goes on")

    def is_used_up(self, job: Job) -> bool:
        is_suspect = job.came_again and self.is_followed(job) and not self.declares_a_limit(job)
        return super().is_used_up(job) or (is_suspect and job.attempts > MOST_STARTS)

    # -- callbacks

    def serve_callbacks(self) -> None:
        while self.due:
            self.isolated(self.due.pop(0))

    def isolated(self, call: Callable[[], None]) -> None:
        with suppress(Exception):  # logged there, and of no consequence
            call()
