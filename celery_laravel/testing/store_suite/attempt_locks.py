# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What an `AttemptStore` has to do when an attempt needs a lock."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel.stores.records import AttemptStart, LockRequest, StartStatus
from celery_laravel.testing.store_suite.attempts import begin, final, released, started
from celery_laravel.testing.store_suite.locks import acquire, hours_left, owners

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def begin_with(store: Store, job_id: str = "job", *, holder: str = "a", slots: int = 1, **given: Any) -> AttemptStart:
    """Start an attempt that needs the lock ``lock``, as a lease of an hour."""
    lock = LockRequest("lock", holder, "unique", "send", HOUR, is_lease=True, slots=slots, payload=job_id)
    return begin(store, job_id, lock=lock, **given)


class AttemptLockSuite:
    """How an attempt and the lock it needs are taken in one step."""

    def test_an_attempt_takes_the_lock_it_needs(self, store: Store) -> None:
        assert begin_with(store) == started(1)
        (record,) = store.locks.find("lock")
        assert (record.owner, record.kind, record.task, record.is_lease) == ("a", "unique", "send", True)
        assert store.locks.renew(["a"], ttl=DAY) == 1

    def test_an_attempt_whose_lock_is_held_by_another_does_not_start(self, store: Store) -> None:
        acquire(store, "b", ttl=HOUR)
        start = begin_with(store)
        assert (start.status, start.attempt, start.exceptions, start.holder) == (StartStatus.LOCKED, 0, 0, "b")
        assert start.delay == pytest.approx(3600, abs=10)
        assert begin(store) == started(1), "nothing was counted"

    def test_a_lock_held_for_ever_has_no_delay(self, store: Store) -> None:
        acquire(store, "holder with spaces")
        assert begin_with(store) == AttemptStart(StartStatus.LOCKED, holder="holder with spaces")

    def test_an_attempt_that_is_locked_out_leaves_its_payload(self, store: Store) -> None:
        acquire(store, "b")
        begin_with(store, "the job")
        assert store.locks.release(["lock"], owner="b") == {"lock": "the job"}

    def test_an_attempt_that_is_locked_out_leaves_what_is_known_of_the_job(self, store: Store) -> None:
        begin(store, turn=0, lease=timedelta())
        acquire(store, "b")
        assert begin_with(store).status is StartStatus.LOCKED
        assert begin_with(store, turn=1, attempts=1).status is StartStatus.LOCKED
        store.locks.free("lock")
        assert begin_with(store) == started(2)
        assert begin_with(store, turn=1, attempts=2) == started(3)

    def test_an_owner_starts_under_the_lock_that_it_holds(self, store: Store) -> None:
        acquire(store, ttl=DAY)
        assert begin_with(store) == started(1)
        assert begin_with(store) == started(2)
        (record,) = store.locks.find("lock")
        assert record.is_lease
        assert hours_left(store) == 1

    def test_as_many_start_as_the_lock_has_slots(self, store: Store) -> None:
        starts = [begin_with(store, f"job-{holder}", holder=holder, slots=2).status for holder in "abc"]
        assert starts == [StartStatus.STARTED, StartStatus.STARTED, StartStatus.LOCKED]

    def test_an_attempt_that_does_not_start_for_another_reason_takes_no_lock(self, store: Store) -> None:
        store.attempts.end(final(job="over"), keep=HOUR)
        store.attempts.end(released(job="released"), keep=HOUR)
        begin(store, "running", owner="another worker")
        begin(store, "later", turn=1)
        statuses = [begin_with(store, job).status.value for job in ("over", "released", "running", "later")]
        assert statuses == ["over", "released", "running", "over"]
        assert store.locks.all() == []

    def test_an_attempt_that_does_not_start_for_another_reason_leaves_the_lock_alone(self, store: Store) -> None:
        store.attempts.end(final(job="over"), keep=HOUR)
        store.attempts.end(released(job="released"), keep=HOUR)
        begin(store, "running", owner="another worker")
        acquire(store, ttl=DAY)
        for holder in ("a", "b"):
            statuses = [
                begin_with(store, job, holder=holder).status.value for job in ("over", "released", "running")
            ]  # its own hold or that of another: it does not matter
            assert statuses == ["over", "released", "running"]
        (record,) = store.locks.find("lock")
        assert (record.owner, record.is_lease) == ("a", False)
        assert hours_left(store) == 24
        assert store.locks.release(["lock"], owner="a") == {"lock": None}

    def test_the_lock_outlives_the_attempt_until_it_is_freed(self, store: Store) -> None:
        begin_with(store)
        store.attempts.end(final(), keep=HOUR)
        assert owners(store) == ["a"]
        store.locks.release(["lock"], owner="a")
        assert begin_with(store, "another", holder="b") == started(1)
