# ruff: noqa: D102, PLR0917  rules and invariants are sentences by their names, and hypothesis gives them their arguments
"""A state machine that drives a `LockStore` and a model of it side by side."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from celery_laravel import clock
from celery_laravel.stores.records import LockRequest
from celery_laravel.testing.store_suite.batch_machine import machine_settings
from celery_laravel.testing.store_suite.times import VirtualTime

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance

KEYS = st.sampled_from(["one", "two"])
OWNERS = st.sampled_from("abcd")
MANY_KEYS = st.lists(KEYS, max_size=3)
HOURS = st.sampled_from([None, 0, 24, 48])
"""What a hold lasts: for ever, for no time at all, or longer than the machine runs unless it moves the clock."""
SLOTS = {"one": 1, "two": 3}


@dataclass
class Hold:
    """A hold as its sentences in the contract have it; ``ends`` is in seconds, endless for ever."""

    ends: float
    is_lease: bool
    kind: str
    payload: str | None = None


class LockMachine(RuleBasedStateMachine):
    """Two locks, one of them with three slots, and four who want them.

    Where the clock is moved by hand, time passes as well; a server's clock
    moves too little meanwhile to matter.
    """

    def __init__(self, store: Store, advance: Advance) -> None:
        super().__init__()
        self.store = store
        self.advance = advance
        self.run = uuid4().hex
        self.began = clock.now()
        self.locks: dict[str, dict[str, Hold]] = {key: {} for key in SLOTS}

    @rule(key=KEYS, owner=OWNERS, hours=HOURS, is_lease=st.booleans(), kind=st.sampled_from("xy"), data=st.data())
    def acquire(self, key: str, owner: str, hours: int | None, is_lease: bool, kind: str, data: Any) -> None:
        payload = data.draw(st.sampled_from([None, "", "text"]))
        is_lease = is_lease and hours is not None
        ttl = None if hours is None else timedelta(hours=hours)
        request = LockRequest(
            self.run + key, self.run + owner, kind, "", ttl, is_lease=is_lease, slots=SLOTS[key], payload=payload
        )
        answer = self.store.locks.acquire(request)
        holds = self.holds(key)
        mine = holds.get(owner)
        if mine is None and len(holds) >= SLOTS[key]:
            assert not answer.acquired
            self.check_refused(holds, answer.owner.removeprefix(self.run), answer.expires_in, payload)
            return
        assert (answer.acquired, answer.owner, answer.was_held) == (True, self.run + owner, mine is not None)
        holds[owner] = Hold(self.end(hours), is_lease, kind, None if mine is None else mine.payload)

    @rule(key=KEYS, owner=OWNERS, hours=st.sampled_from([None, 24, 48]), is_lease=st.booleans(), data=st.data())
    def hold(self, key: str, owner: str, hours: int | None, is_lease: bool, data: Any) -> None:
        """More of what the other rules need."""
        self.acquire(key, owner, hours, is_lease, "x", data)

    def check_refused(self, holds: dict[str, Hold], told: str, expires_in: float | None, payload: str | None) -> None:
        first = min(hold.ends for hold in holds.values())
        assert abs(holds[told].ends - first) < self.slack() or holds[told].ends == first
        assert (expires_in is None) == (first == float("inf"))
        if payload is not None:
            holds[told].payload = payload

    @rule(key=KEYS, owner=OWNERS, hours=HOURS)
    def confirm(self, key: str, owner: str, hours: int | None) -> None:
        ttl = None if hours is None else timedelta(hours=hours)
        self.store.locks.confirm(self.run + key, owner=self.run + owner, ttl=ttl)
        hold = self.holds(key).get(owner)
        if hold is not None and not hold.is_lease:
            hold.ends = self.end(hours)

    @precondition(lambda self: self.held())
    @rule(data=st.data(), hours=HOURS)
    def confirm_what_is_held(self, data: Any, hours: int | None) -> None:
        self.confirm(*data.draw(st.sampled_from(self.held())), hours)

    @precondition(lambda self: self.held())
    @rule(keys=MANY_KEYS, owner=OWNERS)
    def release(self, keys: list[str], owner: str) -> None:
        freed = self.store.locks.release([self.run + key for key in keys], owner=self.run + owner)
        held = {key: self.holds(key).pop(owner) for key in set(keys) if owner in self.holds(key)}
        assert freed == {self.run + key: hold.payload for key, hold in held.items()}

    @precondition(lambda self: self.held())
    @rule(keys=MANY_KEYS, owner=OWNERS)
    def release_soon(self, keys: list[str], owner: str) -> None:
        self.store.locks.release_soon([self.run + key for key in keys], owner=self.run + owner)
        for key in keys:
            self.holds(key).pop(owner, None)

    @precondition(lambda self: len(self.held()) > 1)
    @rule(owner=OWNERS)
    def release_all(self, owner: str) -> None:
        held = [key for key in SLOTS if self.holds(key).pop(owner, None)]
        assert self.store.locks.release_all(self.run + owner) == len(held)

    @rule(owners=st.lists(OWNERS, unique=True, max_size=3), hours=st.sampled_from([1, 36, 72]))
    def renew(self, owners: list[str], hours: int) -> None:
        renewed = self.store.locks.renew([self.run + owner for owner in owners], ttl=timedelta(hours=hours))
        mine = [hold for key in SLOTS for owner, hold in self.holds(key).items() if owner in owners and hold.is_lease]
        assert renewed == len(mine)
        for hold in mine:
            hold.ends = max(hold.ends, self.end(hours))

    @precondition(lambda self: self.held())
    @rule(data=st.data(), hours=st.sampled_from([1, 36, 72]))
    def renew_who_holds(self, data: Any, hours: int) -> None:
        self.renew(data.draw(st.lists(st.sampled_from([owner for _, owner in self.held()]), unique=True)), hours)

    @precondition(lambda self: len(self.held()) > 1)
    @rule(key=KEYS)
    def free(self, key: str) -> None:
        assert self.store.locks.free(self.run + key) == len(self.holds(key))
        self.locks[key] = {}

    @precondition(lambda self: self.holds("one"))
    @rule(owner=OWNERS)
    def set_aside(self, owner: str) -> None:
        to = f"{self.run}kept {owner}"
        hold = self.holds("one").pop(owner, None)
        kept = self.store.locks.set_aside(self.run + "one", to, owner=self.run + owner, ttl=timedelta(hours=1))
        assert kept == (None if hold is None else hold.payload)
        assert self.store.locks.release([to], owner=self.run + owner) == ({} if kept is None else {to: kept})

    @rule()
    def prune(self) -> None:
        self.store.locks.prune()
        assert self.store.locks.prune() == 0

    @precondition(lambda self: isinstance(self.advance, VirtualTime) and self.held())
    @rule(hours=st.integers(1, 40))
    def let_time_pass(self, hours: int) -> None:
        self.advance(timedelta(hours=hours))

    @invariant()
    def there_are_the_right_holds_and_never_more_than_slots(self) -> None:
        for key, slots in SLOTS.items():
            records = self.store.locks.find(self.run + key)
            assert len(records) <= slots
            seen = {record.owner.removeprefix(self.run): record for record in records}
            holds = self.holds(key)
            assert seen.keys() == holds.keys()
            for owner, hold in holds.items():
                record = seen[owner]
                assert (record.kind, record.is_lease) == (hold.kind, hold.is_lease)
                if record.expires_at is None:
                    assert hold.ends == float("inf")
                else:
                    assert abs(record.expires_at.timestamp() - hold.ends) < self.slack()

    @invariant()
    def all_shows_the_same(self) -> None:
        seen = {(record.key, record.owner) for record in self.store.locks.all() if record.key.startswith(self.run)}
        assert seen == {(self.run + key, self.run + owner) for key in SLOTS for owner in self.holds(key)}

    def teardown(self) -> None:
        for key in SLOTS:
            self.store.locks.free(self.run + key)

    def held(self) -> list[tuple[str, str]]:
        """Key and owner of all holds."""
        return [(key, owner) for key in SLOTS for owner in self.holds(key)]

    def holds(self, key: str) -> dict[str, Hold]:
        """The holds on a lock that have not expired."""
        now = clock.now()
        self.locks[key] = {owner: hold for owner, hold in self.locks[key].items() if hold.ends > now}
        return self.locks[key]

    def end(self, hours: int | None) -> float:
        """When a hold given for so many hours now ends; one for no time has ended."""
        return float("inf") if hours is None else clock.now() + hours * 3600 if hours else 0

    def slack(self) -> float:
        """By how many seconds an end may differ from the model's: a server has a clock of its own."""
        return 1e-3 if isinstance(self.advance, VirtualTime) else 3600


def check_locks(store: Store, advance: Advance, *, examples: int, steps: int) -> None:
    """Drive a store through random lives of two locks."""

    class Machine(LockMachine):
        def __init__(self) -> None:
            super().__init__(store, advance)

    run_state_machine_as_test(Machine, settings=machine_settings(examples, steps))
