"""The model of Laravel's queue: its batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from tests.parity.laravel_records import Batch, Job
from tests.parity.scenario import Callback, Scenario, Tree
from tests.parity.stage import Stage


class Batches(Stage):
    """Rows that are counted down, and callbacks where they fall due."""

    version: int

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.batches: dict[str, Any] = {}

    @abstractmethod
    def new_job(self, label: str, *, queue: str | None = None, delay: float | None = None) -> Job:
        """An instance of a label's class."""

    @abstractmethod
    def queue_job(self, job: Job) -> None:
        """Put a job in its queue."""

    @abstractmethod
    def retry(self, job: Job) -> None:
        """Queue a failed job again."""

    def dispatch_batch(
        self,
        name: str,
        jobs: Sequence[Tree],
        callbacks: Mapping[str, Sequence[Callback]],
        *,
        allow_failures: bool,
        queue: str | None,
    ) -> None:
        self.batches[name] = self.new_batch(name, callbacks, allow_failures, queue)
        self.enlist(self.batches[name], jobs)

    def new_batch(
        self, name: str, callbacks: Mapping[str, Sequence[Callback]], allow_failures: bool, queue: str | None
    ) -> Any:
        return Batch(name, callbacks, allow_failures, queue)

    def enlist(self, batch: Any, jobs: Sequence[Tree]) -> None:
        chains = [[tree] if isinstance(tree, str) else tree for tree in jobs]
        for labels in chains:
            first, *rest = [self.new_job(label, queue=self.job(label).queue or batch.queue) for label in labels]
            for job in (first, *rest):
                job.batch, job.index = batch, self.enlist_one(batch, job)
            first.rest = rest
            if self.version == 8 and not rest:  # bulk pushes know no delay
                first.delay = 0
            self.queue_job(first)

    def enlist_one(self, batch: Any, job: Job) -> int:
        batch.is_finished = False
        batch.total += 1
        batch.pending += 1
        return int(batch.total - 1)

    def add_to_batch(self, name: str, jobs: Sequence[Tree]) -> None:
        self.enlist(self.batches[name], jobs)
        self.note("batch_added", batch=self.batch_shape(name))

    def cancel_batch(self, name: str) -> None:
        self.batches[name].is_cancelled = self.batches[name].is_finished = True

    def retry_batch(self, name: str) -> None:
        for job in list(self.batches[name].failed_jobs):
            self.retry(job)

    def batch_shape(self, name: str) -> dict[str, Any]:
        shape: dict[str, Any] = self.batches[name].shape()
        return shape

    def member_succeeded(self, job: Job) -> None:
        batch = job.batch
        batch.pending -= 1
        batch.failed_jobs = [failed for failed in batch.failed_jobs if failed is not job]
        if batch.pending == 0:
            batch.is_finished = True
            self.call_back(batch, "then")
        if batch.pending == batch.failed:
            self.call_back(batch, "finally")

    def member_failed(self, job: Job, error: BaseException | None) -> None:
        batch = job.batch
        batch.failed += 1
        if job not in batch.failed_jobs:
            batch.failed_jobs.append(job)
        if batch.failed == 1:
            if not batch.allow_failures:
                batch.is_cancelled = batch.is_finished = True
            self.call_back(batch, "catch", error)
        if batch.pending == batch.failed:
            self.call_back(batch, "finally", error if self.version == 8 else None)

    def call_back(self, batch: Any, kind: str, error: BaseException | None = None) -> None:
        for callback in batch.callbacks.get(kind, ()):
            try:
                self.callback(kind, callback, error, batch.name)
            except Exception:  # Laravel reports it and goes on
                continue
