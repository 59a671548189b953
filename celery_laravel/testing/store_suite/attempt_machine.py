# ruff: noqa: D102, PLR0917  rules are sentences by their names, and hypothesis gives them their arguments
"""A state machine that drives an `AttemptStore` and a model of it side by side."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from celery_laravel.stores.records import AttemptEnd, StartStatus
from celery_laravel.testing.store_suite.batch_machine import machine_settings

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store

JOBS = st.sampled_from(["one", "two"])
OWNERS = st.sampled_from(["worker-1", "worker-2"])
TURNS = st.integers(0, 3)
COUNTS = st.integers(0, 5)
KEEP = timedelta(hours=1)


@dataclass
class Entry:
    """The last turn of a job: ``end`` is None while it is open, ``owner`` is None without a lease."""

    turn: int
    attempts: int
    owner: str
    has_lease: bool
    end: AttemptEnd | None = None


class AttemptMachine(RuleBasedStateMachine):
    """Two jobs and two workers, with leases that last or that are none."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.run = uuid4().hex
        self.entries: dict[str, Entry] = {}

    @rule(job=JOBS, turn=TURNS, attempts=COUNTS, exceptions=COUNTS, owner=OWNERS, has_lease=st.booleans())
    def begin(self, job: str, turn: int, attempts: int, exceptions: int, owner: str, has_lease: bool) -> None:
        entry = self.entries.get(job)
        lease = timedelta(hours=has_lease)
        start = self.store.attempts.begin(
            self.run + job, turn=turn, attempts=attempts, exceptions=exceptions, owner=owner, lease=lease, keep=KEEP
        )
        seen = (start.status, start.attempt, start.exceptions)
        if entry is not None and entry.turn > turn:
            assert seen == (StartStatus.OVER, 0, 0)
        elif entry is not None and entry.turn == turn and entry.end is not None:
            self.check_ended(entry.end, seen)
        elif entry is not None and entry.turn == turn and entry.has_lease and entry.owner != owner:
            assert seen == (StartStatus.RUNNING, 0, 0)
            assert start.delay > 0
        else:
            behind = max(attempts, entry.attempts) if entry is not None and entry.turn == turn else attempts
            assert seen == (StartStatus.STARTED, behind + 1, exceptions)
            self.entries[job] = Entry(turn, behind + 1, owner, has_lease)

    @rule(job=JOBS, turn=TURNS, is_final=st.booleans(), attempts=COUNTS, exceptions=COUNTS, delay=st.integers(0, 9))
    def end(self, job: str, turn: int, is_final: bool, attempts: int, exceptions: int, delay: int) -> None:
        entry = self.entries.get(job)
        end = AttemptEnd(self.run + job, turn, is_final, attempts, exceptions, delay)
        ends = entry is None or entry.turn < turn or (entry.turn == turn and entry.end is None)
        assert self.store.attempts.end(end, keep=KEEP) is ends
        if ends:
            self.entries[job] = Entry(turn, attempts, "", has_lease=False, end=end)

    @rule(owner=OWNERS)
    def renew(self, owner: str) -> None:
        held = {job for job, entry in self.entries.items() if entry.end is None and entry.owner == owner}
        asked = {self.run + job: owner for job in ("one", "two", "three")}
        assert self.store.attempts.renew(asked, lease=timedelta(hours=1)) == {self.run + job for job in held}
        for job in held:
            self.entries[job].has_lease = True

    @rule(job=JOBS)
    def forget(self, job: str) -> None:
        assert self.store.attempts.forget(self.run + job) is (self.entries.pop(job, None) is not None)

    @rule()
    def prune(self) -> None:
        assert self.store.attempts.prune() == 0

    def teardown(self) -> None:
        for job in self.entries:
            self.store.attempts.forget(self.run + job)

    @staticmethod
    def check_ended(end: AttemptEnd, seen: tuple[StartStatus, int, int]) -> None:
        if end.is_final:
            assert seen == (StartStatus.OVER, 0, 0)
        else:
            assert seen == (StartStatus.RELEASED, end.attempts, end.exceptions)


def check_attempts(store: Store, *, examples: int, steps: int) -> None:
    """Drive a store through random lives of two jobs."""

    class Machine(AttemptMachine):
        def __init__(self) -> None:
            super().__init__(store)

    run_state_machine_as_test(Machine, settings=machine_settings(examples, steps))
