"""The deliberate differences from Laravel, as rules: what this library does with a scenario.

Each method says which of the numbered differences in README.md it stands for.
What is not written here is as in Laravel (version 13 where that differs from 8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from celery_laravel.errors import BatchFinishedError, JobReleasedError, ManuallyFailedError, MaxAttemptsExceededError
from tests.parity.laravel import Laravel
from tests.parity.laravel_records import Job, Run
from tests.parity.scenario import Callback, Scenario, Tree


@dataclass(eq=False)
class MemberBatch:
    """Differences 4 to 7, 19 and 20: a batch whose every member is pending, succeeded, failed or never to run."""

    name: str
    callbacks: Mapping[str, Sequence[Callback]]
    allow_failures: bool
    queue: str | None
    members: dict[Job, str] = field(default_factory=dict)
    is_cancelled: bool = False
    fired: set[str] = field(default_factory=set)

    @property
    def is_finished(self) -> bool:
        return "pending" not in self.members.values()

    @property
    def failed_jobs(self) -> list[Job]:
        return [job for job, state in self.members.items() if state == "failed"]

    def set(self, job: Job, state: str) -> None:
        """Note how a member stands; one that fails comes last among those that have."""
        self.members.pop(job, None)
        self.members[job] = state

    def shape(self) -> dict[str, Any]:
        total, failed = len(self.members), len(self.failed_jobs)
        done = total - list(self.members.values()).count("pending")
        return {
            "total": total,
            "pending": total - done,
            "failed": failed,
            "failed_job_ids": failed,
            "processed": done,
            "progress": 100 if self.is_finished else int(100 * done / total + 0.5),
            "cancelled": self.is_cancelled,
            "finished": self.is_finished,
        }


class Here(Laravel):
    """What this library does."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario, version=13)
        self.due: list[Callable[[], None]] = []

    def used_up(self) -> Exception:
        return MaxAttemptsExceededError()

    # -- 1, 2, 18: what an attempt says takes effect when it ends, and it has one outcome

    def said_release(self, run: Run, seconds: float) -> None:
        if not (run.is_failed or run.is_deleted):
            run.released = seconds

    def said_fail(self, run: Run, error: Exception | None) -> None:
        if not (run.is_failed or run.is_deleted):
            run.is_failed = True
            run.failure = error or ManuallyFailedError()  # 9

    def said_delete(self, run: Run) -> None:
        if not run.is_failed:
            run.is_deleted = True

    def attempt(self, run: Run) -> None:
        job = run.job
        if self.is_used_up(job):
            self.note("exception", job=job.label, type="MaxAttemptsExceededError")
            self.settle_failure(run, self.used_up())
            return
        error = self.error_of(run)
        if error is not None:
            job.exceptions += 1
        if run.failure is not None:
            self.settle_failure(run, run.failure)
        elif run.is_deleted:
            self.succeed(job)
        elif error is not None and self.is_last(job):
            self.settle_failure(run, error)
        elif error is not None:
            self.put_back(run, self.backoff_of(job) if run.released is None else run.released)
        elif run.released is not None:
            self.put_back(run, run.released)
        else:
            self.succeed(job)

    def error_of(self, run: Run) -> Exception | None:
        """What the job's code raised, announced whatever else the attempt said."""
        try:
            self.send_through(run)
        except Exception as error:
            self.note("exception", job=run.job.label, type=type(error).__name__)
            return error
        return None

    def dispatch_sync(self, label: str) -> None:
        run = Run(self, self.new_job(label), is_sync=True)
        run.job.attempts = 1
        error = self.error_of(run)
        if run.failure is not None:
            self.settle_failure(run, run.failure)
        elif error is not None and not run.is_deleted:
            self.settle_failure(run, error)
            raise error
        elif run.released is not None and not run.is_deleted:
            raise JobReleasedError(delay=run.released)  # 13
        else:
            self.succeed(run.job)

    def settle_failure(self, run: Run, error: BaseException) -> None:
        """10: every hook runs, and the job's own exception stays the reason."""
        job = run.job
        if job.batch is not None:
            self.member_failed(job, error)
        self.due += [partial(self.callback, "chain.catch", callback, error, None) for callback in job.catch]
        self.isolated(partial(self.failed_hook, job.label, error))
        kind = type(error).__name__
        self.note("failed", job=job.label, type=kind)
        if self.keeps_records(run):
            self.failures.append((job, kind))

    # -- 4 to 8, 19, 20: batches

    def new_batch(
        self, name: str, callbacks: Mapping[str, Sequence[Callback]], allow_failures: bool, queue: str | None
    ) -> MemberBatch:
        return MemberBatch(name, callbacks, allow_failures, queue)

    def dispatch_batch(
        self,
        name: str,
        jobs: Sequence[Tree],
        callbacks: Mapping[str, Sequence[Callback]],
        *,
        allow_failures: bool,
        queue: str | None,
    ) -> None:
        super().dispatch_batch(name, jobs, callbacks, allow_failures=allow_failures, queue=queue)
        self.finish_if_done(self.batches[name])  # 5: an empty one is

    def enlist_one(self, batch: MemberBatch, job: Job) -> int:
        batch.members[job] = "pending"
        return len(batch.members) - 1

    def add_to_batch(self, name: str, jobs: Sequence[Tree]) -> None:
        if self.batches[name].is_finished:
            raise BatchFinishedError(name)  # 8
        super().add_to_batch(name, jobs)

    def cancel_batch(self, name: str) -> None:
        self.batches[name].is_cancelled = True  # 6: which finishes nothing

    def member_succeeded(self, job: Job) -> None:
        job.batch.set(job, "succeeded")
        self.finish_if_done(job.batch)

    def member_failed(self, job: Job, error: BaseException | None) -> None:
        batch: MemberBatch = job.batch
        batch.set(job, "failed")
        for following in job.rest:  # 4
            batch.set(following, "never to run")
        if not batch.allow_failures:
            batch.is_cancelled = True
        self.fire(batch, "catch", error)
        self.finish_if_done(batch)

    def retry(self, job: Job) -> None:
        if job.batch is not None:  # 4, 19, 20
            for revived in (job, *job.rest):
                job.batch.set(revived, "pending")
        super().retry(job)

    def finish_if_done(self, batch: MemberBatch) -> None:
        if not batch.is_finished:
            return
        if set(batch.members.values()) <= {"succeeded"}:
            self.fire(batch, "then")
        self.fire(batch, "finally")

    def fire(self, batch: MemberBatch, kind: str, error: BaseException | None = None) -> None:
        """7: each kind once; and a callback is a job of its own."""
        if kind not in batch.fired:
            batch.fired.add(kind)
            callbacks = batch.callbacks.get(kind, ())
            self.due += [partial(self.callback, kind, callback, error, batch.name) for callback in callbacks]

    def serve_callbacks(self) -> None:
        while self.due:
            self.isolated(self.due.pop(0))

    def isolated(self, call: Callable[[], None]) -> None:
        with suppress(Exception):  # logged there, and of no consequence
            call()
