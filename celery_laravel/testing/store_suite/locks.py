# ruff: noqa: D102  the name of a test is its sentence, and its numbers are its own
"""What a `LockStore` has to do."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel.stores.records import LockAnswer, LockRequest

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def acquire(store: Store, owner: str = "a", key: str = "lock", **given: Any) -> LockAnswer:
    """Ask for a lock, as a hold for ever unless something else is given."""
    return store.locks.acquire(LockRequest(key, owner, **({"kind": "overlap", "task": "send"} | given)))


def lease(store: Store, owner: str = "a", key: str = "lock", ttl: timedelta = HOUR) -> LockAnswer:
    """Ask for a lock as a lease."""
    return acquire(store, owner, key, ttl=ttl, is_lease=True)


def owners(store: Store, key: str = "lock") -> list[str]:
    """Who holds a lock."""
    return sorted(record.owner for record in store.locks.find(key))


def hours_left(store: Store, owner: str = "a", key: str = "lock") -> float | None:
    """How long a hold lasts, to a tenth of an hour; None for ever."""
    expires = {record.owner: record.expires_at for record in store.locks.find(key)}[owner]
    return None if expires is None else round((expires - _now(store)) / HOUR, 1)


def _now(store: Store) -> datetime:
    """The time by the store's clock, as the beginning of a hold shows it."""
    acquire(store, key="what time is it?")
    (record,) = store.locks.find("what time is it?")
    store.locks.free("what time is it?")
    return record.taken_at


class LockSuite:
    """How locks are taken, shared and freed."""

    def test_a_free_lock_is_taken(self, store: Store) -> None:
        answer = acquire(store, ttl=HOUR)
        assert (answer.acquired, answer.owner, answer.was_held) == (True, "a", False)
        assert answer.expires_in == pytest.approx(3600, abs=1)

    def test_a_held_lock_is_refused_and_its_holder_told(self, store: Store) -> None:
        acquire(store, ttl=HOUR)
        answer = acquire(store, "b")
        assert (answer.acquired, answer.owner, answer.was_held) == (False, "a", False)
        assert answer.expires_in == pytest.approx(3600, abs=10)
        assert owners(store) == ["a"]

    def test_a_hold_without_an_end_lasts_for_ever(self, store: Store) -> None:
        assert acquire(store) == LockAnswer(True, "a", None)
        assert acquire(store, "b") == LockAnswer(False, "a", None)

    def test_locks_are_apart(self, store: Store) -> None:
        assert acquire(store, "a", "one").acquired
        assert acquire(store, "b", "two").acquired
        assert store.locks.release(["two"], owner="a") == {}

    def test_who_holds_a_lock_takes_it_again_with_what_the_new_request_says(self, store: Store) -> None:
        acquire(store, ttl=DAY, kind="unique", task="one")
        (before,) = store.locks.find("lock")
        answer = acquire(store, ttl=HOUR, is_lease=True, kind="overlap", task="two")
        assert (answer.acquired, answer.owner, answer.was_held) == (True, "a", True)
        assert answer.expires_in == pytest.approx(3600, abs=1)
        (after,) = store.locks.find("lock")
        assert (after.kind, after.task, after.is_lease, after.taken_at) == ("overlap", "two", True, before.taken_at)
        assert hours_left(store) == 1
        acquire(store)
        assert hours_left(store) is None
        assert not store.locks.find("lock")[0].is_lease

    def test_a_lock_of_three_slots_has_three_holders(self, store: Store) -> None:
        answers = [acquire(store, owner, slots=3).acquired for owner in "abcd"]
        assert answers == [True, True, True, False]
        assert acquire(store, "b", slots=3).was_held
        store.locks.release(["lock"], owner="b")
        assert acquire(store, "d", slots=3).acquired
        assert owners(store) == ["a", "c", "d"]

    def test_slots_are_those_of_each_request(self, store: Store) -> None:
        acquire(store, "a", slots=2)
        acquire(store, "b", slots=2)
        store.locks.release(["lock"], owner="a")
        assert not acquire(store, "c", slots=1).acquired
        assert acquire(store, "c", slots=2).acquired
        assert acquire(store, "b", slots=1).was_held

    def test_who_is_refused_is_told_the_holder_whose_hold_ends_first(self, store: Store) -> None:
        acquire(store, "for ever", slots=3)
        acquire(store, "late", slots=3, ttl=DAY)
        acquire(store, "soon", slots=3, ttl=HOUR)
        answer = acquire(store, "d", slots=3)
        assert answer.owner == "soon"
        assert answer.expires_in == pytest.approx(3600, abs=10)
        store.locks.release(["lock"], owner="soon")
        assert acquire(store, "d", slots=2).owner == "late"

    def test_a_hold_that_has_expired_is_no_hold(self, store: Store, advance: Advance) -> None:
        acquire(store, ttl=advance.short, payload="never left")
        advance(advance.short)
        assert store.locks.find("lock") == store.locks.all() == []
        assert store.locks.release(["lock"], owner="a") == {}
        assert acquire(store, "b", ttl=advance.short) == LockAnswer(True, "b", advance.short.total_seconds())
        advance(advance.short)
        assert not acquire(store, "b", ttl=HOUR).was_held
        assert store.locks.free("lock") == 1

    def test_an_expired_hold_leaves_its_slot_to_others(self, store: Store, advance: Advance) -> None:
        acquire(store, "a", slots=2, ttl=advance.short)
        acquire(store, "b", slots=2, ttl=advance.long)
        advance(advance.short)
        assert acquire(store, "c", slots=2, ttl=advance.long).acquired
        assert acquire(store, "d", slots=2).owner == "b"
        assert owners(store) == ["b", "c"]

    def test_a_hold_of_no_time_is_over_at_once(self, store: Store) -> None:
        assert acquire(store, ttl=timedelta()).acquired
        assert acquire(store, "b").acquired
        assert store.locks.release(["lock"], owner="a") == {}

    def test_a_hold_with_a_later_end_is_no_shorter_for_its_neighbours(self, store: Store, advance: Advance) -> None:
        acquire(store, "a", slots=3)
        acquire(store, "b", slots=3, ttl=advance.long)
        acquire(store, "c", slots=3, ttl=advance.short)
        advance(advance.short)
        assert owners(store) == ["a", "b"]
        store.locks.release(["lock"], owner="a")
        assert owners(store) == ["b"]

    def test_keys_and_owners_may_be_any_text(self, store: Store) -> None:
        odd = ["k", "K", "k ", " k", "kö", "ko", "{k}", "k}:{", "a b:c*%s\\'\"", "日本", "x" * 255]
        for number, key in enumerate(odd):
            assert acquire(store, key, key, kind=f"kind {number}", task="täsk {1} x").acquired, key
        assert {(record.key, record.owner) for record in store.locks.all()} == {(key, key) for key in odd}
        assert store.locks.renew(odd, ttl=HOUR) == 0
        for number, key in enumerate(odd):
            (record,) = store.locks.find(key)
            assert (record.kind, record.task) == (f"kind {number}", "täsk {1} x")
            assert not acquire(store, key + "'", key).acquired
            assert store.locks.release([key], owner=key) == {key: None}

    def test_a_request_that_makes_no_sense_is_refused_by_name(self) -> None:
        with pytest.raises(ValueError, match=r"lock 'k': slots=0 lets nobody hold it"):
            LockRequest("k", "a", "overlap", slots=0)
        with pytest.raises(ValueError, match=r"lock 'k': a lease needs a ttl"):
            LockRequest("k", "a", "overlap", is_lease=True)
