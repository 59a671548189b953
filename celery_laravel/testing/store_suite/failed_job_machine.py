# ruff: noqa: D102  rules and invariants are sentences by their names
"""A state machine that drives a `FailedJobStore` and a model of it side by side."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from celery_laravel import clock
from celery_laravel.testing.store_suite.batch_machine import machine_settings
from celery_laravel.testing.store_suite.failed_jobs import NOON, failed
from celery_laravel.testing.store_suite.times import VirtualTime

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import FailedJob
    from celery_laravel.testing.store_suite.times import Advance

JOBS = st.sampled_from("xyz")
QUEUES = st.sampled_from(["one", "two"])
OWNERS = st.sampled_from(["a", "b"])
MINUTES = st.integers(0, 3)
HOURS = st.sampled_from([0, 12, 36])
"""A lease: over at once, or longer than the machine runs unless it moves the clock."""


@dataclass
class Kept:
    """A record as its sentences in the contract have it; ``ends`` is in seconds."""

    job: FailedJob
    arrival: int
    owner: str | None = None
    ends: float = 0.0


class FailedJobMachine(RuleBasedStateMachine):
    """Records of three jobs in two queues, a batch for each, and two who retry them; in some stores time passes."""

    def __init__(self, store: Store, advance: Advance) -> None:
        super().__init__()
        self.store = store.failed_jobs
        self.advance = advance
        self.model: dict[str, Kept] = {}
        self.arrivals = 0

    @rule(job_id=JOBS, queue=QUEUES, minutes=MINUTES)
    def record(self, job_id: str, queue: str, minutes: int) -> None:
        job = failed(job_id, queue=queue, minutes=minutes, batch_id=f"batch of {job_id}")
        kept = self.model.get(job_id)
        is_new = kept is None or kept.owner is not None
        assert self.store.record(job) == is_new
        if is_new:
            self.arrivals += 1
            self.model[job_id] = Kept(job, self.arrivals)

    @rule(job_id=JOBS, owner=OWNERS, hours=HOURS)
    def claim(self, job_id: str, owner: str, hours: int) -> None:
        kept = self.model.get(job_id)
        claimed = self.store.claim(job_id, owner=owner, lease=timedelta(hours=hours))
        if kept is None or (kept.owner not in {None, owner} and kept.ends > clock.now()):
            assert claimed is None
            return
        assert claimed == kept.job
        kept.owner, kept.ends = owner, clock.now() + hours * 3600

    @rule(job_id=JOBS, owner=OWNERS)
    def release(self, job_id: str, owner: str) -> None:
        kept = self.model.get(job_id)
        is_mine = kept is not None and kept.owner == owner
        assert self.store.release(job_id, owner=owner) == is_mine
        if kept is not None and is_mine:
            kept.ends = clock.now()

    @rule(job_id=JOBS, owner=st.none() | OWNERS)
    def forget(self, job_id: str, owner: str | None) -> None:
        kept = self.model.get(job_id)
        goes = kept is not None and owner in {None, kept.owner}
        assert self.store.forget(job_id, owner=owner) == goes
        if goes:
            del self.model[job_id]

    @rule(minutes=st.none() | MINUTES)
    def flush(self, minutes: int | None) -> None:
        before = None if minutes is None else NOON + timedelta(minutes=minutes)
        gone = [job_id for job_id, kept in self.model.items() if before is None or kept.job.failed_at < before]
        assert self.store.flush(before=before) == len(gone)
        for job_id in gone:
            del self.model[job_id]

    @precondition(lambda self: isinstance(self.advance, VirtualTime) and self.model)
    @rule(hours=st.integers(1, 40))
    def let_time_pass(self, hours: int) -> None:
        self.advance(timedelta(hours=hours))

    @invariant()
    def every_view_shows_what_is_kept(self) -> None:
        kept = sorted(self.model.values(), key=lambda kept: (kept.job.failed_at, kept.arrival), reverse=True)
        assert self.store.all() == [one.job for one in kept]
        assert self.store.count() == len(kept)
        for queue in ("one", "two"):
            mine = [one.job for one in kept if one.job.queue == queue]
            assert self.store.all(queue=queue) == mine
            assert self.store.count(queue=queue) == len(mine)

    @invariant()
    def claims_are_seen_and_those_that_came_to_no_end_found(self) -> None:
        now = clock.now()
        seen = {job.id: job.claimed_until for job in self.store.all()}
        for job_id in "xyz":
            kept, found = self.model.get(job_id), self.store.find(job_id)
            assert found == (kept and kept.job)
            assert (found and found.claimed_until) == seen.get(job_id)
            ends = seen.get(job_id)
            assert (ends is not None) == (kept is not None and kept.owner is not None)
            if kept is not None and ends is not None:
                assert abs(ends.timestamp() - kept.ends) < self.slack()
            is_over = kept is not None and kept.owner is not None and kept.ends <= now
            assert [job.id for job in self.store.interrupted(f"batch of {job_id}")] == [job_id] * is_over

    def teardown(self) -> None:
        self.store.flush()

    def slack(self) -> float:
        """By how many seconds an instant may differ from the model's: a server has a clock of its own."""
        return 1e-3 if isinstance(self.advance, VirtualTime) else 3600.0


def check_failed_jobs(store: Store, advance: Advance, *, examples: int, steps: int) -> None:
    """Drive a store through random lives of records of failed jobs."""

    class Machine(FailedJobMachine):
        def __init__(self) -> None:
            super().__init__(store, advance)

    run_state_machine_as_test(Machine, settings=machine_settings(examples, steps))
