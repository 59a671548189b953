"""A model of Laravel's queue, small enough to read: what its worker does with a scenario, without running anything.

It serves two ends. Played against the recorded traces it proves itself right;
then `differences.py` changes it rule by rule into what this library promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.parity.errors import error_class
from tests.parity.laravel_batches import Batches
from tests.parity.laravel_middleware import Middleware
from tests.parity.laravel_records import Job, Run
from tests.parity.queues import Queues
from tests.parity.scenario import Callback, Scenario


class TimedOut(BaseException):
    """The alarm that a worker sets for a job's timeout."""


class Laravel(Middleware, Batches):
    """Laravel 8, as recorded; with ``version=13`` what the traces' ``v13_differs`` says."""

    def __init__(self, scenario: Scenario, version: int = 8) -> None:
        super().__init__(scenario)
        self.version = version
        self.queues: Queues[Job] = Queues()
        self.failures: list[tuple[Job, str]] = []
        self.worker_tries, self.worker_backoff = 1, 0.0

    # -- dispatch

    def dispatch(self, label: str, *, delay: float | None = None, queue: str | None = None) -> None:
        job = self.new_job(label, queue=queue, delay=delay)
        if self.may_dispatch(job):
            self.queue_job(job)

    def may_dispatch(self, job: Job) -> bool:
        """Take a unique job's lock; False, and a word in the log, when a twin holds it."""
        unique = self.unique_of(job.label)
        if unique is None or self.held.take(unique.key, job, unique.seconds):
            return True
        self.note("dispatch_ignored", job=job.label)
        return False

    def new_job(self, label: str, *, queue: str | None = None, delay: float | None = None) -> Job:
        definition = self.job(label)
        wait = definition.delay if delay is None else delay
        return Job(label, queue or definition.queue or "default", delay=wait)

    def queue_job(self, job: Job) -> None:
        span = self.option(job.label, "retry_until_s")
        job.deadline = None if span is None else self.now + span
        if job.delay:
            self.queues.delay(job.queue, job, self.now + job.delay)
        else:
            self.queues.push(job.queue, job)

    def dispatch_chain(self, labels: Sequence[str], catch: Sequence[Callback], delay: float, queue: str | None) -> None:
        self.queue_job(self.new_chain(labels, catch, delay, queue))

    def new_chain(self, labels: Sequence[str], catch: Sequence[Callback], delay: float, queue: str | None) -> Job:
        """The first job of a chain, which carries the others."""
        first, *rest = [self.new_job(label, queue=self.job(label).queue or queue) for label in labels]
        first.delay = delay or first.delay
        for job in (first, *rest):
            job.catch = catch
        first.rest = rest
        return first

    def dispatch_sync(self, label: str) -> None:
        run = Run(self, self.new_job(label), attempts=1, is_sync=True)
        try:
            self.send_through(run)
        except Exception as error:
            self.note("exception", job=label, type=type(error).__name__)
            self.fail(run, error)
            raise
        self.after_return(run)

    # -- work

    def set_worker(self, tries: int, backoff: float) -> None:
        self.worker_tries, self.worker_backoff = tries, backoff

    def work_one(self, queues: Sequence[str]) -> bool:
        job = self.queues.pop(queues, self.now)
        if job is None:
            return False
        run = self.pick_up(job)
        if run is not None:
            self.attempt(run)
            self.queues.done(job)
        return True

    def pick_up(self, job: Job) -> Run | None:
        """Count an attempt; None when there is to be none."""
        job.attempts += 1
        return Run(self, job, attempts=job.attempts)

    def pick_up_and_crash(self, queues: Sequence[str]) -> None:
        job = self.queues.pop(queues, self.now)
        if job is not None:
            self.pick_up(job)
            self.note("popped_and_lost", job=job.label)

    def worker_died(self) -> None:
        """Laravel knows nothing of it."""

    def serve_callbacks(self) -> None:
        """Laravel calls them where they fall due."""

    def next_due(self, queues: Sequence[str]) -> float | None:
        return self.queues.next_due(queues)

    def attempt(self, run: Run) -> None:
        try:
            self.refuse_if_used_up(run)
            self.send_through(run)
            self.after_return(run)
        except TimedOut:
            self.after_timeout(run)
        except Exception as error:
            self.after_exception(run, error)

    def refuse_if_used_up(self, run: Run) -> None:
        if self.is_used_up(run.job):
            error = self.used_up()
            self.fail(run, error)
            raise error

    def used_up(self) -> Exception:
        return error_class("MaxAttemptsExceededException")()

    def is_used_up(self, job: Job) -> bool:
        tries = self.tries_of(job)
        if job.deadline is not None:
            return self.now > job.deadline
        return tries > 0 and job.attempts > tries

    def is_last(self, job: Job) -> bool:
        """Whether an exception in this attempt, counted already, fails the job."""
        most = self.option(job.label, "max_exceptions")
        if most is not None and job.exceptions >= most:
            return True
        if job.deadline is not None:
            return self.now >= job.deadline
        tries = self.tries_of(job)
        return tries > 0 and job.attempts >= tries

    def tries_of(self, job: Job) -> int:
        tries = self.option(job.label, "tries")
        return self.worker_tries if tries is None else int(tries)

    def backoff_of(self, job: Job) -> float:
        backoff = self.option(job.label, "backoff")
        if backoff is None:
            return self.worker_backoff
        if isinstance(backoff, list):
            return float(backoff[min(job.attempts, len(backoff)) - 1])
        return float(backoff)

    def send_through(self, run: Run) -> None:
        unique = self.unique_of(run.job.label)
        if unique is not None and unique.until_processing:
            self.held.free(unique.key)
        self.pass_layers(run)
        if unique is not None and not unique.until_processing and run.released is None:
            self.held.free(unique.key)

    def pass_layers(self, run: Run) -> None:
        """Run a job's code inside its middleware."""
        layers, label = self.job(run.job.label).middleware, run.job.label

        def step(index: int) -> None:
            if index == len(layers):
                self.enter(run)
            else:
                self.pass_layer(layers[index], label, run, lambda: step(index + 1))

        step(0)

    def enter(self, run: Run) -> None:
        """Run the job's own code."""
        self.handle(run.job.label, run)

    def sleep(self, label: str, seconds: float) -> None:
        limit = self.option(label, "timeout")
        if limit is not None and limit < seconds:
            raise TimedOut

    # -- what a running job says

    def said_release(self, run: Run, seconds: float) -> None:
        if not run.is_sync:
            self.put_back(run, seconds)
        run.released = seconds

    def said_fail(self, run: Run, error: Exception | None) -> None:
        self.fail(run, error)

    def said_delete(self, run: Run) -> None:
        run.is_deleted = True

    # -- endings

    def after_return(self, run: Run) -> None:
        if not run.is_failed and run.released is None:
            self.succeed(run.job)
        self.note("processed", job=run.job.label)

    def succeed(self, job: Job) -> None:
        self.go_on_with_chain(job)
        if job.batch is not None:
            self.member_succeeded(job)

    def go_on_with_chain(self, job: Job) -> None:
        if job.rest:
            following, *following.rest = job.rest
            if self.may_dispatch(following):
                self.queue_job(following)

    def after_exception(self, run: Run, error: Exception) -> None:
        run.job.exceptions += 1
        if not run.is_failed and self.is_last(run.job):
            try:
                self.fail(run, error)
            except Exception:
                return  # reported in the place of the job's own
        self.note("exception", job=run.job.label, type=type(error).__name__)
        if not run.is_failed and not run.is_deleted and run.released is None:
            self.put_back(run, self.backoff_of(run.job))

    def after_timeout(self, run: Run) -> None:
        """The alarm of a job's timeout: it fails if this was its last try, and the worker ends either way."""
        run.job.exceptions += 1
        if self.is_last(run.job):
            self.fail(run, self.used_up())
        else:
            self.crash()

    def put_back(self, run: Run, seconds: float) -> None:
        self.note("released", job=run.job.label, delay=seconds)
        self.queues.drop_delayed(run.job)  # the same payload: a sorted set holds it once
        self.queues.delay(run.job.queue, run.job, self.now + seconds)

    def fail(self, run: Run, error: Exception | None) -> None:
        run.is_failed = True
        if run.is_deleted:
            return
        run.is_deleted = True
        job = run.job
        unique = self.unique_of(job.label)
        if unique is not None and not unique.until_processing:
            self.held.free(unique.key)
        try:
            if job.batch is not None:
                self.member_failed(job, error)
            for callback in job.catch:
                self.callback("chain.catch", callback, error, None)
            self.failed_hook(job.label, error)
        finally:
            kind = "ManuallyFailedException" if error is None else type(error).__name__
            self.note("failed", job=job.label, type=kind)
            if self.keeps_records(run):
                self.keep_record(job, kind)

    def keeps_records(self, run: Run) -> bool:
        """It is the worker that keeps them: of a job that runs in its caller only where that is a worker."""
        return not run.is_sync or self.worker is not None

    def keep_record(self, job: Job, kind: str) -> None:
        if any(known is job for known, _ in self.failures):
            raise error_class("QueryException")  # the uuid is there already
        self.failures.append((job, kind))

    def retry_failed(self, label: str | None) -> None:
        for job, _ in reversed(self.failures.copy()):
            if label in {None, job.label}:
                self.retry(job)

    def retry(self, job: Job) -> None:
        self.failures = [(failed, kind) for failed, kind in self.failures if failed is not job]
        job.attempts = job.exceptions = 0
        job.delay = 0
        self.queue_job(job)

    # -- how things stand

    def failed_jobs(self) -> list[dict[str, Any]]:
        return [{"job": job.label, "type": kind} for job, kind in self.failures]

    def queue_lengths(self, name: str) -> dict[str, int]:
        return self.queues.lengths(name, self.now)
