# ruff: noqa: D102  the name of a test is its sentence
"""What a `LockStore` has to do for payloads that outlive the hold they were left with."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel.stores.records import LockRequest

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance

HOUR = timedelta(hours=1)


def hold(store: Store, key: str, owner: str, payload: str | None = None) -> bool:
    """Ask for a lock; tell whether it was taken."""
    return store.locks.acquire(LockRequest(key, owner, "unique", "send", payload=payload)).acquired


def set_aside(store: Store, owner: str = "a", ttl: timedelta = HOUR) -> str | None:
    """Free ``waiting`` and keep what was left there under a name that belongs to the owner."""
    return store.locks.set_aside("waiting", f"kept:{owner}", owner=owner, ttl=ttl)


class SetAsideSuite:
    """How a payload is kept for a job that may crash."""

    def test_the_lock_is_freed_and_the_payload_left_with_it_is_kept(self, store: Store) -> None:
        hold(store, "waiting", "a")
        hold(store, "waiting", "b", payload="old")
        hold(store, "waiting", "c", payload="new")
        assert set_aside(store) == "new"
        assert store.locks.find("waiting") == []
        [kept] = store.locks.find("kept:a")
        assert (kept.owner, kept.kind, kept.task, kept.is_lease) == ("a", "unique", "send", False)

    def test_asking_again_gives_the_same_and_leaves_the_next_holder_alone(self, store: Store) -> None:
        hold(store, "waiting", "a")
        hold(store, "waiting", "b", payload="for a")
        set_aside(store)
        hold(store, "waiting", "b")
        hold(store, "waiting", "c", payload="for b")
        assert set_aside(store) == "for a"
        assert [record.owner for record in store.locks.find("waiting")] == ["b"]
        assert set_aside(store, "b") == "for b"

    def test_without_a_payload_the_lock_is_just_freed(self, store: Store) -> None:
        hold(store, "waiting", "a")
        assert set_aside(store) is None
        assert store.locks.all() == []

    def test_a_lock_of_somebody_else_is_left_alone_with_its_payload(self, store: Store) -> None:
        hold(store, "waiting", "a")
        hold(store, "waiting", "b", payload="for a")
        assert set_aside(store, "b") is None
        assert set_aside(store, "a") == "for a"

    def test_what_is_kept_can_be_freed(self, store: Store) -> None:
        hold(store, "waiting", "a")
        hold(store, "waiting", "b", payload="text")
        set_aside(store)
        assert store.locks.release(["kept:a"], owner="a") == {"kept:a": "text"}
        assert set_aside(store) is None

    def test_what_is_kept_is_forgotten_after_its_time(self, store: Store, advance: Advance) -> None:
        hold(store, "waiting", "a")
        hold(store, "waiting", "b", payload="text")
        set_aside(store, ttl=advance.short)
        advance(advance.short)
        assert set_aside(store) is None
        assert store.locks.all() == []
