# ruff: noqa: D102  rules and invariants are sentences by their names
"""A state machine that drives a `DelayStore` and a model of it side by side."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from celery_laravel import clock
from celery_laravel.stores.records import NewDelay
from celery_laravel.testing.store_suite.batch_machine import machine_settings
from celery_laravel.testing.store_suite.times import VirtualTime

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance

JOBS = st.sampled_from("xyz")
QUEUES = st.sampled_from(["one", "two"])
HOURS = st.sampled_from([0, 24, 48])
"""A delay: none at all, or longer than the machine runs unless it moves the clock."""


@dataclass
class Waiting:
    """A message as its sentences in the contract have it; instants in seconds."""

    job: str
    queue: str
    due: float
    leaves: float
    message: str
    is_revoked: bool = False


class DelayMachine(RuleBasedStateMachine):
    """Messages of three jobs in two queues; where the clock is moved by hand, time passes as well."""

    def __init__(self, store: Store, advance: Advance) -> None:
        super().__init__()
        self.store = store
        self.advance = advance
        self.model: dict[str, Waiting] = {}

    @rule(job=JOBS, queue=QUEUES, hours=HOURS)
    def park(self, job: str, queue: str, hours: int) -> None:
        entry = uuid4().hex
        delay = NewDelay(entry, job, "task", queue, f"of {entry}", timedelta(hours=hours))
        self.store.delays.park([delay, delay])
        due = clock.now() + hours * 3600
        self.model[entry] = Waiting(job, queue, due, due, f"of {entry}")

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def park_what_is_there(self, data: Any) -> None:
        entry = data.draw(st.sampled_from(sorted(self.model)))
        self.store.delays.park([NewDelay(entry, "x", "task", "one", "another", timedelta())])

    @rule(limit=st.integers(1, 3), hours=st.sampled_from([12, 36]))
    def claim(self, limit: int, hours: int) -> None:
        now = clock.now()
        due = {entry for entry, waiting in self.model.items() if waiting.leaves <= now + self.slack()}
        claimed = self.store.delays.claim(limit=limit, lease=timedelta(hours=hours))
        assert len(claimed) == min(limit, len(due))
        for record in claimed:
            assert record.entry in due
            waiting = self.model[record.entry]
            assert (record.message, record.is_revoked) == (waiting.message, waiting.is_revoked)
            waiting.leaves = now + hours * 3600

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        gone = data.draw(st.lists(st.sampled_from(sorted(self.model)), max_size=3, unique=True))
        assert self.store.delays.remove([*gone, "nobody"]) == len(gone)
        for entry in gone:
            del self.model[entry]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def revoke(self, data: Any) -> None:
        entry = data.draw(st.sampled_from(sorted(self.model)))
        assert self.store.delays.revoke(entry, f"revoked {entry}")
        waiting = self.model[entry]
        if waiting.is_revoked:
            return
        waiting.is_revoked, waiting.message = True, f"revoked {entry}"
        if waiting.leaves == waiting.due:
            waiting.leaves = min(waiting.leaves, clock.now())

    @rule()
    def revoke_what_is_not_there(self) -> None:
        assert not self.store.delays.revoke(uuid4().hex, "")

    @precondition(lambda self: isinstance(self.advance, VirtualTime) and self.model)
    @rule(hours=st.integers(1, 40))
    def let_time_pass(self, hours: int) -> None:
        self.advance(timedelta(hours=hours))

    @invariant()
    def what_waits_is_what_was_parked_and_has_not_left(self) -> None:
        seen = {record.entry: record for record in self.store.delays.all()}
        assert seen.keys() == self.model.keys()
        assert self.store.delays.count() == len(self.model)
        for entry, waiting in self.model.items():
            record = seen[entry]
            told = (record.job_id, record.queue, record.message, record.is_revoked)
            assert told == (waiting.job, waiting.queue, waiting.message, waiting.is_revoked)
            assert abs(record.due_at.timestamp() - waiting.due) < max(self.slack(), 1e-3)

    @invariant()
    def every_view_shows_the_same(self) -> None:
        delays = self.store.delays
        for queue in ("one", "two"):
            entries = [record.entry for record in delays.all() if record.queue == queue]
            assert [record.entry for record in delays.all(queue=queue)] == entries
            assert delays.count(queue=queue) == len(entries)
        for job in "xyz":
            mine = {record.entry for record in delays.find(job)}
            assert mine == {entry for entry, waiting in self.model.items() if waiting.job == job}

    def teardown(self) -> None:
        self.store.delays.remove(list(self.model))

    def slack(self) -> float:
        """By how many seconds an instant may differ from the model's: a server has a clock of its own."""
        return 0.0 if isinstance(self.advance, VirtualTime) else 3600.0


def check_delays(store: Store, advance: Advance, *, examples: int, steps: int) -> None:
    """Drive a store through random lives of messages that wait."""

    class Machine(DelayMachine):
        def __init__(self) -> None:
            super().__init__(store, advance)

    run_state_machine_as_test(Machine, settings=machine_settings(examples, steps))
