# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What a `LockStore` has to do when holds end."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel.testing.store_suite.locks import acquire, hours_left, lease, owners

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class LockReleaseSuite:
    """How holds end, and what is left with them."""

    def test_only_the_owner_frees_a_lock(self, store: Store) -> None:
        acquire(store)
        assert store.locks.release(["lock"], owner="b") == {}
        assert owners(store) == ["a"]
        assert store.locks.release(["lock"], owner="a") == {"lock": None}
        assert store.locks.release(["lock"], owner="a") == {}
        assert acquire(store, "b").acquired

    def test_several_locks_are_freed_in_one_call(self, store: Store) -> None:
        for key in ("one", "two", "three"):
            acquire(store, key=key)
        acquire(store, "b", "theirs")
        assert store.locks.release(["one", "theirs", "three", "unknown", "one"], owner="a") == {
            "one": None,
            "three": None,
        }
        assert {record.key for record in store.locks.all()} == {"two", "theirs"}
        assert store.locks.release([], owner="a") == {}

    def test_a_lock_freed_soon_is_free_for_who_asks_afterwards(self, store: Store) -> None:
        for number in range(40):
            acquire(store, f"owner-{number}", "one")
            acquire(store, "b", "theirs")
            store.locks.release_soon(["one", "theirs"], owner=f"owner-{number}")
        assert acquire(store, "b", "one").acquired
        assert owners(store, "theirs") == ["b"]
        store.locks.release_soon([], owner="b")

    def test_all_holds_of_an_owner_are_freed(self, store: Store) -> None:
        acquire(store, key="one")
        lease(store, key="two")
        acquire(store, key="three", slots=2, ttl=HOUR)
        acquire(store, "b", "three", slots=2)
        assert store.locks.release_all("a") == 3
        assert [(record.key, record.owner) for record in store.locks.all()] == [("three", "b")]
        assert store.locks.release_all("a") == store.locks.release_all("unknown") == 0

    def test_holds_that_were_freed_or_have_expired_are_none_of_an_owners(self, store: Store, advance: Advance) -> None:
        acquire(store, key="freed")
        acquire(store, key="expired", ttl=advance.short)
        acquire(store, key="held")
        store.locks.release(["freed"], owner="a")
        acquire(store, "b", "freed")
        advance(advance.short)
        acquire(store, "b", "expired")
        assert store.locks.release_all("a") == 1
        assert {record.owner for record in store.locks.all()} == {"b"}

    def test_the_last_refused_leaves_its_payload_with_the_holder(self, store: Store) -> None:
        acquire(store, payload="never left: it was not refused")
        for owner, payload in [("b", "first"), ("c", "lást {1} 'x'"), ("d", None)]:
            assert not acquire(store, owner, payload=payload).acquired
        assert acquire(store).was_held
        assert store.locks.release(["lock"], owner="a") == {"lock": "lást {1} 'x'"}

    def test_an_empty_payload_is_one(self, store: Store) -> None:
        acquire(store)
        acquire(store, "b", payload="")
        assert store.locks.release(["lock"], owner="a") == {"lock": ""}

    def test_a_payload_may_be_long(self, store: Store) -> None:
        payload = "x" * 100_000
        acquire(store)
        acquire(store, "b", payload=payload)
        assert store.locks.release(["lock"], owner="a") == {"lock": payload}

    def test_a_payload_goes_with_the_hold(self, store: Store, advance: Advance) -> None:
        acquire(store, ttl=DAY)
        acquire(store, "b", payload="lost")
        store.locks.confirm("lock", owner="a", ttl=advance.short)
        advance(advance.short)
        acquire(store)
        assert store.locks.release(["lock"], owner="a") == {"lock": None}
        acquire(store, "c")
        assert store.locks.release(["lock"], owner="c") == {"lock": None}

    def test_a_payload_is_left_with_the_holder_whose_hold_ends_first(self, store: Store) -> None:
        acquire(store, "a", slots=2, ttl=DAY)
        acquire(store, "b", slots=2, ttl=HOUR)
        acquire(store, "c", slots=2, payload="text")
        assert store.locks.release(["lock"], owner="a") == {"lock": None}
        assert store.locks.release(["lock"], owner="b") == {"lock": "text"}

    def test_a_lock_is_freed_whoever_holds_it(self, store: Store) -> None:
        for owner in "abc":
            acquire(store, owner, slots=3)
        acquire(store, "a", "another")
        assert store.locks.free("lock") == 3
        assert store.locks.free("lock") == store.locks.free("unknown") == 0
        assert owners(store) == []
        assert owners(store, "another") == ["a"]

    def test_a_hold_lasts_from_when_it_is_confirmed(self, store: Store) -> None:
        acquire(store, ttl=DAY)
        store.locks.confirm("lock", owner="a", ttl=HOUR)
        assert hours_left(store) == 1
        store.locks.confirm("lock", owner="a", ttl=DAY)
        assert hours_left(store) == 24
        store.locks.confirm("lock", owner="a", ttl=None)
        assert hours_left(store) is None
        store.locks.confirm("lock", owner="a", ttl=HOUR)
        assert hours_left(store) == 1

    def test_confirming_keeps_all_else(self, store: Store) -> None:
        acquire(store, ttl=DAY)
        acquire(store, "b", payload="text")
        (before,) = store.locks.find("lock")
        store.locks.confirm("lock", owner="a", ttl=None)
        (after,) = store.locks.find("lock")
        assert (after.kind, after.task, after.taken_at) == (before.kind, before.task, before.taken_at)
        assert store.locks.release(["lock"], owner="a") == {"lock": "text"}

    def test_only_a_hold_of_the_owner_that_is_no_lease_is_confirmed(self, store: Store, advance: Advance) -> None:
        acquire(store, key="theirs", ttl=HOUR)
        lease(store, key="lease")
        acquire(store, key="expired", ttl=advance.short)
        advance(advance.short)
        store.locks.confirm("theirs", owner="b", ttl=None)
        for key in ("lease", "expired", "unknown"):
            store.locks.confirm(key, owner="a", ttl=None)
        assert all(record.expires_at is not None for record in store.locks.all())
        assert {record.key for record in store.locks.all()} == {"theirs", "lease"}
