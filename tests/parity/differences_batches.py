"""The deliberate differences from Laravel in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from celery_laravel.errors import BatchFinishedError
from tests.parity.laravel import Laravel
from tests.parity.laravel_records import Job
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


class BatchesHere(Laravel):
    """What this library does with batches."""

    def __init__(self, scenario: Scenario, version: int = 13) -> None:
        super().__init__(scenario, version)
        self.due: list[Callable[[], None]] = []

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
