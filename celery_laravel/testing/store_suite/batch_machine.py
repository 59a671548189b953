# ruff: noqa: D102  rules and invariants are sentences by their names
"""A state machine that drives a `BatchStore` and a model of it side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from celery_laravel.errors import BatchFinishedError
from celery_laravel.stores.records import Mark, MemberEnd, MemberState, NewBatch
from celery_laravel.testing.store_suite.batch_help import EVERY_KIND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import BatchChange, BatchRecord, Callback

INDICES = st.integers(-1, 8)
SKIPS = st.lists(INDICES, max_size=4).map(tuple)


@dataclass
class Model:
    """A batch as its sentences in the contract have it: members by name of state, counts by counting."""

    allows_failures: bool
    members: list[str] = field(default_factory=list)
    job_ids: dict[int, str] = field(default_factory=dict)
    is_open: bool = True
    is_cancelled: bool = False
    has_finished: bool = False
    exception: object = None
    fired: list[str] = field(default_factory=list)
    unsent: set[Mark] = field(default_factory=set)
    times_failed: int = 0

    def __post_init__(self) -> None:
        self.owe("before")

    def is_at(self, index: int, state: str) -> bool:
        return index in range(len(self.members)) and self.members[index] == state

    def move(self, indices: Sequence[int], before: str, after: str) -> None:
        for index in indices:
            if self.is_at(index, before):
                self.members[index] = after

    def owe(self, kind: str, occasion: int | None = None) -> list[Mark]:
        due = [Mark(kind, position, occasion) for position in range(len(EVERY_KIND[kind]))]
        self.unsent |= set(due)
        return due

    def fire(self, *kinds: str) -> list[Mark]:
        fresh = [kind for kind in kinds if kind not in self.fired]
        self.fired += fresh
        return [mark for kind in fresh for mark in self.owe(kind)]

    def settle_down(self) -> list[Mark]:
        self.has_finished = not self.is_open and "pending" not in self.members
        if not self.has_finished:
            return []
        if set(self.members) <= {"succeeded"}:
            return self.fire("then", "next", "finally")
        return self.fire("finally") if self.times_failed and not self.allows_failures else self.fire("next", "finally")

    def end(self, end: MemberEnd) -> list[Mark] | None:
        if not self.is_at(end.index, "pending"):
            return None
        self.members[end.index] = end.state.name.lower()
        self.move(end.skips, "pending", "skipped")
        due = []
        if end.state is MemberState.SUCCEEDED:
            due = self.owe("progress", end.index)
        if end.state is MemberState.FAILED:
            self.job_ids[end.index] = end.job_id
            self.times_failed += 1
            self.is_cancelled = self.is_cancelled or not self.allows_failures
            due = self.owe("failure", self.times_failed) if self.allows_failures else []
            if self.times_failed == 1:
                self.exception = end.exception
            due += self.fire("catch")
        return due + self.settle_down()

    def end_many(self, indices: Sequence[int]) -> list[Mark] | None:
        pending = sorted({index for index in indices if self.is_at(index, "pending")})
        if not pending:
            return None
        self.move(pending, "pending", "succeeded")
        due = [mark for index in pending for mark in self.owe("progress", index)]
        return due + self.settle_down()

    def revive(self, index: int, job_id: str, skips: Sequence[int]) -> bool:
        if not self.is_at(index, "failed") or self.job_ids[index] != job_id:
            return False
        self.members[index] = "pending"
        self.move(skips, "skipped", "pending")
        self.has_finished = False
        return True

    def agrees_with(self, record: BatchRecord) -> None:
        seen = {
            "total": record.total_jobs,
            "pending": record.pending_jobs,
            "failed": record.failed_jobs,
            "skipped": record.skipped_jobs,
            "failed ids": sorted(record.failed_job_ids),
            "open": record.is_open,
            "cancelled": record.cancelled_at is not None,
            "finished": record.finished_at is not None,
            "exception": record.first_exception,
        }
        failed = [index for index, state in enumerate(self.members) if state == "failed"]
        assert seen == {
            "total": len(self.members),
            "pending": self.members.count("pending"),
            "failed": len(failed),
            "skipped": self.members.count("skipped"),
            "failed ids": sorted(self.job_ids[index] for index in failed),
            "open": self.is_open,
            "cancelled": self.is_cancelled,
            "finished": self.has_finished,
            "exception": self.exception,
        }


class BatchMachine(RuleBasedStateMachine):
    """One batch, and every call that changes it, in any order."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.batch_id = f"batch-{uuid4().hex}"

    @initialize(allows_failures=st.booleans(), members=st.integers(0, 6))
    def create(self, allows_failures: bool, members: int) -> None:
        self.model = Model(allows_failures)
        self.new = NewBatch(self.batch_id, "name", {"queue": "q"}, EVERY_KIND, allows_failures)
        self.store.batches.create(self.new)
        self.add(members)

    @rule(count=st.integers(0, 2))
    def add(self, count: int) -> None:
        if self.model.has_finished:
            with pytest.raises(BatchFinishedError):
                self.store.batches.add(self.batch_id, count)
            return
        assert self.store.batches.add(self.batch_id, count) == len(self.model.members)
        self.model.members += ["pending"] * count

    @rule()
    def repeat_what_was_done(self) -> None:
        self.model.agrees_with(self.store.batches.create(self.new))
        if not self.model.is_open:
            self.check(self.store.batches.close(self.batch_id), None)
        if self.model.is_cancelled:
            self.check(self.store.batches.cancel(self.batch_id), None)

    @precondition(lambda self: self.model.is_open)
    @rule()
    def close(self) -> None:
        self.model.is_open = False
        self.check(self.store.batches.close(self.batch_id), self.model.settle_down())

    @rule(index=INDICES, state=st.sampled_from(list(MemberState)[1:]), skips=SKIPS, job_id=st.sampled_from("ab"))
    def end(self, index: int, state: MemberState, skips: tuple[int, ...], job_id: str) -> None:
        end = MemberEnd(self.batch_id, index, f"{job_id}-{index}", state, skips, {"failed": index})
        self.check(self.store.batches.end_member(end), self.model.end(end))

    @precondition(lambda self: self.pending())
    @rule(data=st.data())
    def let_a_pending_member_succeed(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.pending())), MemberState.SUCCEEDED, (), "a")

    @rule(indices=st.lists(INDICES, max_size=5))
    def let_many_succeed(self, indices: list[int]) -> None:
        due = self.model.end_many(indices)
        self.check(self.store.batches.end_members(self.batch_id, indices), due)

    @rule(indices=st.lists(INDICES, max_size=5))
    def ask_which_have_ended(self, indices: list[int]) -> None:
        ended = {index for index in indices if index in range(len(self.model.members))}
        ended = {index for index in ended if not self.model.is_at(index, "pending")}
        assert self.store.batches.ended(self.batch_id, indices) == ended

    @rule(index=INDICES, skips=SKIPS, job_id=st.sampled_from("ab"))
    def revive(self, index: int, skips: tuple[int, ...], job_id: str) -> None:
        changed = self.model.revive(index, f"{job_id}-{index}", skips)
        change = self.store.batches.revive(self.batch_id, index, job_id=f"{job_id}-{index}", skips=skips)
        self.check(change, [] if changed else None)

    @precondition(lambda self: self.failed())
    @rule(data=st.data(), skips=SKIPS)
    def revive_a_failed_member(self, data: st.DataObject, skips: tuple[int, ...]) -> None:
        index = data.draw(st.sampled_from(self.failed()))
        assert self.model.revive(index, self.model.job_ids[index], skips)
        self.check(self.store.batches.revive(self.batch_id, index, job_id=self.model.job_ids[index], skips=skips), [])

    @precondition(lambda self: not self.model.is_cancelled)
    @rule()
    def cancel(self) -> None:
        self.model.is_cancelled = True
        self.check(self.store.batches.cancel(self.batch_id), [])

    @precondition(lambda self: self.model.unsent)
    @rule(data=st.data())
    def mark_sent(self, data: st.DataObject) -> None:
        every = sorted(self.model.unsent | {Mark("then", 0), Mark("progress", 1, 2), Mark("failure", 0, 9)}, key=repr)
        sent = data.draw(st.lists(st.sampled_from(every), unique=True, max_size=3))
        self.store.batches.mark_sent(self.batch_id, sent)
        self.model.unsent -= set(sent)

    @precondition(lambda self: self.model.has_finished and not self.model.unsent)
    @rule()
    def delete_and_create_anew(self) -> None:
        assert self.store.batches.delete(self.batch_id)
        self.model = Model(self.new.allows_failures)
        self.store.batches.create(self.new)

    @invariant()
    def the_record_is_right(self) -> None:
        record = self.store.batches.find(self.batch_id)
        assert record is not None
        self.model.agrees_with(record)
        assert (record.name, record.options, record.callbacks) == ("name", {"queue": "q"}, EVERY_KIND)

    @invariant()
    def what_is_due_is_right(self) -> None:
        waiting = self.store.batches.due(older_than=timedelta())
        assert {_mark(callback) for record, callback in waiting if record.id == self.batch_id} == self.model.unsent

    def teardown(self) -> None:
        self.store.batches.delete(self.batch_id)

    def pending(self) -> list[int]:
        return [index for index, state in enumerate(self.model.members) if state == "pending"]

    def failed(self) -> list[int]:
        return [index for index, state in enumerate(self.model.members) if state == "failed"]

    def check(self, change: BatchChange | None, due: list[Mark] | None) -> None:
        """Compare a change with what the model made due; None stands for no change."""
        assert change is not None
        assert change.changed is (due is not None)
        assert [_mark(callback) for callback in change.due] == (due or [])
        self.model.agrees_with(change.batch)


def check_batches(store: Store, *, examples: int, steps: int) -> None:
    """Drive a store through random lives of a batch."""

    class Machine(BatchMachine):
        def __init__(self) -> None:
            super().__init__(store)

    run_state_machine_as_test(Machine, settings=machine_settings(examples, steps))


def machine_settings(examples: int, steps: int) -> settings:
    """Settings without deadlines: a store is as slow as its server."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        print_blob=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def _mark(callback: Callback) -> Mark:
    assert callback.signature == EVERY_KIND[callback.kind][callback.position]
    assert (callback.exception is not None) == (callback.kind == "failure")
    return callback.mark
