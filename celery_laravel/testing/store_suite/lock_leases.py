# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What a `LockStore` has to do for leases, and for people who look at locks."""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from celery_laravel.testing.store_suite.locks import acquire, hours_left, lease, owners

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class LockLeaseSuite:
    """How leases are kept alive, and what people see of locks."""

    def test_a_renewed_lease_lasts_on(self, store: Store, advance: Advance) -> None:
        lease(store, ttl=advance.long)
        assert store.locks.renew(["a"], ttl=advance.long * 24) == 1
        (record,) = store.locks.find("lock")
        assert record.expires_at is not None
        assert record.expires_at - record.taken_at > advance.long * 23

    def test_a_lease_outlives_its_first_end_when_renewed(self, store: Store, advance: Advance) -> None:
        for _ in range(50):
            lease(store, ttl=advance.short * 3)
            advance(advance.short)
            if store.locks.renew(["a"], ttl=advance.long):  # otherwise this machine was too busy to be in time
                advance(advance.short * 3)
                assert owners(store) == ["a"]
                return
        pytest.fail("50 times in a row, renewing came too late")

    def test_a_lease_is_never_shortened(self, store: Store) -> None:
        lease(store, ttl=DAY)
        assert store.locks.renew(["a"], ttl=HOUR) == 1
        assert hours_left(store) == 24

    def test_a_lease_that_has_run_out_is_lost(self, store: Store, advance: Advance) -> None:
        lease(store, ttl=advance.short)
        advance(advance.short)
        assert store.locks.renew(["a"], ttl=HOUR) == 0
        assert acquire(store, "b").acquired

    def test_only_leases_of_these_owners_are_renewed(self, store: Store) -> None:
        lease(store, "a", "mine")
        acquire(store, "a", "hold", ttl=HOUR)
        acquire(store, "a", "for ever")
        lease(store, "b", "theirs")
        lease(store, "a", "freed")
        lease(store, "a", "no lease any more")
        acquire(store, "a", "no lease any more", ttl=HOUR)
        store.locks.release(["freed"], owner="a")
        assert store.locks.renew(["a", "c"], ttl=DAY) == 1
        assert hours_left(store, "a", "mine") == 24
        assert hours_left(store, "a", "hold") == hours_left(store, "a", "no lease any more") == 1
        assert hours_left(store, "b", "theirs") == 1
        assert hours_left(store, "a", "for ever") is None
        assert owners(store, "freed") == []

    def test_a_hold_that_has_become_a_lease_is_renewed(self, store: Store) -> None:
        acquire(store, ttl=DAY * 2)
        lease(store)
        assert store.locks.renew(["a"], ttl=DAY) == 1
        assert hours_left(store) == 24

    def test_one_of_several_holders_is_renewed_alone(self, store: Store) -> None:
        for owner in "abc":
            acquire(store, owner, slots=3, ttl=HOUR, is_lease=True)
        assert store.locks.renew(["b"], ttl=DAY) == 1
        assert [hours_left(store, owner) for owner in "abc"] == [1, 24, 1]

    def test_very_many_leases_are_renewed_in_one_call(self, store: Store) -> None:
        for number in range(300):
            lease(store, f"owner-{number // 3}", f"lock-{number}")
        asked = [f"owner-{number}" for number in range(0, 400, 2)]
        assert store.locks.renew(asked, ttl=DAY) == 150
        assert (hours_left(store, "owner-2", "lock-8"), hours_left(store, "owner-1", "lock-5")) == (24, 1)
        assert store.locks.renew([], ttl=DAY) == 0

    def test_a_lock_shows_its_holds_the_oldest_first(self, store: Store, advance: Advance) -> None:
        acquire(store, "b", slots=2, kind="funnel", task="import", ttl=advance.long)
        advance(advance.short)
        acquire(store, "a", slots=2, ttl=advance.long, is_lease=True)
        first, second = store.locks.find("lock")
        assert (first.key, first.owner, first.kind, first.task, first.is_lease) == (
            "lock", "b", "funnel", "import", False,
        )  # fmt: skip
        assert (second.owner, second.is_lease) == ("a", True)
        assert second.taken_at - first.taken_at >= advance.short
        assert first.taken_at.tzinfo is timezone.utc
        assert first.expires_at is not None
        assert first.expires_at.tzinfo is timezone.utc
        assert abs(first.expires_at - first.taken_at - advance.long) < timedelta(milliseconds=1)
        assert store.locks.find("unknown") == []

    def test_all_holds_are_shown_the_oldest_first(self, store: Store, advance: Advance) -> None:
        taken = [("b", "one"), ("a", "two"), ("c", "two"), ("a", "three")]
        for owner, key in taken:
            acquire(store, owner, key, slots=2)
            advance(timedelta(milliseconds=2))
        assert [(record.owner, record.key) for record in store.locks.all()] == taken
        assert [(record.owner, record.key) for record in store.locks.all(limit=2)] == taken[:2]
        assert store.locks.all(limit=0) == []
        assert [record for key in ("one", "two", "three") for record in store.locks.find(key)] == store.locks.all()

    def test_very_many_holds_are_shown(self, store: Store, advance: Advance) -> None:
        for number in range(250):
            acquire(store, f"owner-{number}", f"lock-{number}", ttl=advance.short if number % 2 else None)
        advance(advance.short)
        assert len(store.locks.all()) == 125
        assert len(store.locks.all(limit=110)) == 110

    def test_pruning_removes_only_holds_that_have_expired(self, store: Store, advance: Advance) -> None:
        for number in range(3):
            acquire(store, f"owner-{number}", slots=9, ttl=advance.short)
        acquire(store, "d", slots=9, ttl=advance.long)
        acquire(store, "e", slots=9)
        advance(advance.short)
        assert store.locks.prune() in range(4)  # a slot may have been taken again
        assert store.locks.prune() == 0
        assert owners(store) == ["d", "e"]
