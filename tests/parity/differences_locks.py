"""The deliberate differences from Laravel in unique and overlap locks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.parity.laravel import Laravel
from tests.parity.laravel_middleware import Unique
from tests.parity.laravel_records import Job, Run
from tests.parity.scenario import Callback, Scenario
from tests.parity.workers import Worker

LEASE = 60
"""Seconds that a lease outlives its holder (12)."""

LONGEST_WAIT = 5
"""Seconds; a job whose lock a twin has got looks again after 1, 2, 3… of them."""


class LocksHere(Laravel):
    """What this library does with locks: they have owners, and those of running jobs are leases."""

    def __init__(self, scenario: Scenario, version: int = 13) -> None:
        super().__init__(scenario, version)
        self.running: list[tuple[Worker | None, Run]] = []

    def unique_of(self, label: str) -> Unique | None:
        """Whether, how long and until when a job is unique is said of its class; the id is the job's own."""
        of_class = self.option(label, "unique")
        if of_class is None:
            return None
        own = self.job(label).unique or {}
        key = ("unique", self.job(label).class_name, str(own.get("id", "")))
        return Unique(key, of_class.get("for") or None, bool(of_class.get("until_processing")))

    # -- 11: every step of a chain is checked, and only who took a lock frees it

    def may_dispatch(self, job: Job) -> bool:
        if not super().may_dispatch(job):
            return False
        unique = self.unique_of(job.label)
        job.lock = None if unique is None else unique.key
        return True

    def dispatch_chain(self, labels: Sequence[str], catch: Sequence[Callback], delay: float, queue: str | None) -> None:
        self.queue_step(self.new_chain(labels, catch, delay, queue))

    def queue_step(self, job: Job) -> None:
        """Queue a chain's step, or the first after it that no twin keeps out."""
        while not self.may_dispatch(job):
            if not job.rest:
                return
            following, *following.rest = job.rest
            job = following
        self.queue_job(job)

    def go_on_with_chain(self, job: Job) -> None:
        if not job.rest:
            return
        following, *following.rest = job.rest
        if job.batch is None:
            self.queue_step(following)
        else:
            self.queue_job(following)

    def free_unique(self, run: Run) -> None:
        """Free the lock that a job's message holds; the next message of the job will hold none."""
        if run.lock is None:
            run.job.lock = None
        else:
            self.held.free(run.lock, run.job)
            run.lock = None

    def pick_up(self, job: Job) -> Run | None:
        """Start an attempt, for which a lock without a fixed end is a lease; a job whose lock a twin has got waits."""
        unique = self.unique_of(job.label)
        if job.lock is not None and unique is not None and unique.seconds is None:
            if self.held.owner(job.lock) in {None, job}:
                self.held.free(job.lock, job)
                self.held.take(job.lock, job, None)
            elif not unique.until_processing:
                job.waits += 1
                self.queues.done(job)
                self.queues.delay(job.queue, job, self.now + min(job.waits, LONGEST_WAIT))
                return None
        job.waits = 0
        run = super().pick_up(job)
        if run is not None:
            run.lock = job.lock
        return run

    def put_back(self, run: Run, seconds: float) -> None:
        run.job.lock = run.lock
        super().put_back(run, seconds)

    def retry(self, job: Job) -> None:
        """Take the lock again for a failed job that had it to its end; one with a fixed end it does not need."""
        unique = self.unique_of(job.label)
        if unique is None or unique.seconds is not None:
            job.lock = None
        elif job.lock is not None:
            self.held.take(job.lock, job, None)
        super().retry(job)

    # -- 16: until processing means until the code runs, and no longer when the job fails

    def send_through(self, run: Run) -> None:
        presence = (self.worker, run)
        self.running.append(presence)
        try:
            self.pass_layers(run)
        finally:
            self.running = [other for other in self.running if other is not presence]

    def enter(self, run: Run) -> None:
        unique = self.unique_of(run.job.label)
        if unique is not None and unique.until_processing:
            self.free_unique(run)
        run.entered = True
        super().enter(run)

    # -- 12: the locks of running jobs are leases

    def without_overlapping(self, layer: Mapping[str, Any], run: Run, go_on: Callable[[], Any]) -> None:
        key = self.overlap_key(layer, run.job.label)
        holder = self.held.owner(key)
        seconds = layer.get("expire_after") or None
        if holder is run or self.held.take(key, run, seconds):
            self.held.extend(key, seconds)  # two layers of one key are one lock, which lasts as the inner one says
            run.locks.append(key)
            go_on()
        elif isinstance(holder, Run) and holder.job is run.job:
            run.release(max(1.0, self.held.expires_in(key) or 0.0))
            run.counts = False
        else:
            self.refuse_overlap(layer, run)

    def attempt_ended(self, run: Run) -> None:
        for key in run.locks:
            self.held.free(key, run)

    def worker_died(self) -> None:
        for worker, run in self.running:
            if worker is self.worker:
                self.held.expire_leases(run, LEASE)
                self.holder_died(run.job)
        self.running = [(worker, run) for worker, run in self.running if worker is not self.worker]

    def holder_died(self, job: Job) -> None:
        job.came_again = True
        unique = self.unique_of(job.label)
        if unique is not None and unique.seconds is None:
            self.held.expire_leases(job, LEASE)
