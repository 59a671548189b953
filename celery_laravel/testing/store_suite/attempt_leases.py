# ruff: noqa: D102  the name of a test is its sentence, and its numbers are its own
"""What an `AttemptStore` has to do with leases."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from celery_laravel.stores.records import StartStatus
from celery_laravel.testing.store_suite.attempts import HOUR, MINUTE, begin, final, released, started

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance


class AttemptLeaseSuite:
    """How leases are kept alive, and lost."""

    def test_a_renewed_lease_keeps_copies_waiting(self, store: Store, advance: Advance) -> None:
        begin(store, lease=advance.short, keep=advance.long)
        assert store.attempts.renew({"job": "worker-1"}, lease=advance.long) == {"job"}
        advance(advance.short * 2)
        assert begin(store, owner="worker-2").status is StartStatus.RUNNING

    def test_a_lease_lasts_as_long_as_it_was_last_given(self, store: Store, advance: Advance) -> None:
        begin(store, lease=advance.long)
        store.attempts.renew({"job": "worker-1"}, lease=advance.short)
        advance(advance.short)
        assert begin(store, owner="worker-2") == started(2)

    def test_only_what_is_still_held_is_renewed(self, store: Store) -> None:
        for job in ("mine", "theirs", "over", "released"):
            begin(store, job, owner="them" if job == "theirs" else "me")
        store.attempts.end(final(job="over"), keep=HOUR)
        store.attempts.end(released(job="released"), keep=HOUR)
        asked = dict.fromkeys(["mine", "theirs", "over", "released", "unknown"], "me")
        assert store.attempts.renew(asked, lease=MINUTE) == {"mine"}
        assert begin(store, "over").status is StartStatus.OVER
        assert begin(store, "released").status is StartStatus.RELEASED
        assert begin(store, "unknown") == started(1)

    def test_renewing_nothing_is_fine(self, store: Store) -> None:
        assert store.attempts.renew({}, lease=MINUTE) == frozenset()

    def test_very_many_leases_are_renewed_in_one_call(self, store: Store) -> None:
        jobs = [f"job-{number}" for number in range(300)]
        for job in jobs[::2]:
            begin(store, job)
        assert store.attempts.renew(dict.fromkeys(jobs, "worker-1"), lease=MINUTE) == frozenset(jobs[::2])

    def test_a_lease_that_ran_out_unnoticed_is_still_held(self, store: Store, advance: Advance) -> None:
        begin(store, lease=advance.short, keep=advance.long)
        advance(advance.short)
        assert store.attempts.renew({"job": "worker-1"}, lease=advance.long) == {"job"}
        assert begin(store, owner="worker-2").status is StartStatus.RUNNING

    def test_a_renewed_entry_is_kept_as_long_as_one_just_begun(self, store: Store, advance: Advance) -> None:
        keep = advance.short * 10
        for _ in range(50):
            begin(store, lease=advance.short, keep=keep)
            advance(keep * 0.7)
            renewed = time.monotonic()
            store.attempts.renew({"job": "worker-1"}, lease=advance.short)
            advance(keep * 0.7)
            start = begin(store, owner="worker-2")
            if time.monotonic() - renewed < keep.total_seconds():  # otherwise this machine was too busy to tell
                assert start == started(2), "the crash was forgotten"
                return
            store.attempts.forget("job")
        pytest.fail(f"50 times in a row, asking again took longer than {keep}")
