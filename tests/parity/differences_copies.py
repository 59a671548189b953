"""The deliberate difference from Laravel in copies: messages that are delivered again while their job runs (3)."""

from __future__ import annotations

from dataclasses import dataclass

from tests.parity.differences_locks import LEASE, LocksHere
from tests.parity.laravel_records import Job, Run

FIRST_LOOK, LONGEST_WAIT = 5, 20
"""Seconds; a copy looks again after 5, 10, then every 20 of them, or when the lease has ended."""

PADDING = 0.5


@dataclass(eq=False)
class Copy(Job):
    """The message of a job that is put back because an attempt of its turn is held; it starts that turn, or nothing."""

    of: Job | None = None


def original_of(job: Job) -> Job:
    """The job that a copy is of; any other job is its own."""
    return job.of if isinstance(job, Copy) and job.of is not None else job


class CopiesHere(LocksHere):
    """What this library does with copies of jobs whose starts are counted."""

    def pick_up(self, job: Job) -> Run | None:
        """Start an attempt, unless the job has ended this turn, or one of it runs or was crashed a moment ago."""
        original = original_of(job)
        if original.is_over or job.turn != original.turn:
            self.queues.done(job)
            return None
        if (held_until := self.held_until(original)) > self.now:
            self.wait_as_copy(job, original, held_until - self.now)
            return None
        original.held_until = 0.0
        run = super().pick_up(original)
        if run is None:
            self.queues.done(job)
        return run

    def held_until(self, job: Job) -> float:
        """When the lease of its attempt ends, as far as can be told now."""
        runs = any(run.job is job for _, run in self.running)
        return self.now + LEASE if runs else job.held_until

    def wait_as_copy(self, job: Job, original: Job, left: float) -> None:
        copy = Copy(original.label, original.queue, turn=job.turn, waits=job.waits + 1, of=original)
        self.queues.done(job)
        wait = min(FIRST_LOOK * 2**job.waits, LONGEST_WAIT, left + PADDING)
        self.queues.delay(job.queue, copy, self.now + wait)

    def put_back(self, run: Run, seconds: float) -> None:
        run.job.turn += 1
        super().put_back(run, seconds)

    def counts_starts(self, job: Job) -> bool:
        """Whether the start of its present attempt was written down."""
        raise NotImplementedError

    def holder_died(self, job: Job) -> None:
        if self.counts_starts(job):
            job.held_until = self.now + LEASE
        super().holder_died(job)

    def retry(self, job: Job) -> None:
        job.turn, job.is_over = job.turn + 1, False
        super().retry(job)
