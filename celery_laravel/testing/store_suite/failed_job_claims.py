# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What a `FailedJobStore` has to do for those who send failed jobs again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_laravel.testing.store_suite.failed_jobs import failed
from celery_laravel.testing.store_suite.times import in_time

if TYPE_CHECKING:
    from datetime import timedelta

    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import FailedJob
    from celery_laravel.testing.store_suite.times import Advance, Deadlines


def claim(store: Store, owner: str, lease: timedelta, job_id: str = "job") -> FailedJob | None:
    """A claim, of a job that has the id of `failed` unless another is given."""
    return store.failed_jobs.claim(job_id, owner=owner, lease=lease)


class FailedJobClaimSuite:
    """Claims: one at a time, until the lease has run out, and gone with what was claimed."""

    def test_a_record_is_claimed_by_one(self, store: Store, advance: Advance) -> None:
        store.failed_jobs.record(failed())
        assert claim(store, "first", advance.long) == failed()
        assert claim(store, "second", advance.long) is None
        assert claim(store, "second", advance.long, "nobody") is None

    def test_an_owner_that_claims_again_gets_it_again_for_longer(self, store: Store, advance: Advance) -> None:
        store.failed_jobs.record(failed())
        first, again = claim(store, "first", advance.short), claim(store, "first", advance.long)
        assert first is not None
        assert again == failed()
        assert first.claimed_until is not None
        assert again.claimed_until is not None
        assert again.claimed_until - first.claimed_until > advance.long / 2
        advance(advance.short)
        assert claim(store, "second", advance.long) is None

    def test_what_is_claimed_is_seen_by_all_with_the_end_of_the_claim(self, store: Store, advance: Advance) -> None:
        for job_id, minutes in (("a", 1), ("job", 2), ("z", 3)):
            store.failed_jobs.record(failed(job_id, minutes=minutes, queue="q"))
        claimed = claim(store, "first", advance.long)
        assert claimed is not None
        assert claimed.claimed_until is not None
        found = store.failed_jobs.find("job")
        assert found == failed(minutes=2, queue="q")
        assert found.claimed_until == claimed.claimed_until
        for listed in (store.failed_jobs.all(), store.failed_jobs.all(queue="q")):
            assert [(job.id, job.claimed_until) for job in listed] == [
                ("z", None),
                ("job", claimed.claimed_until),
                ("a", None),
            ]
        assert (store.failed_jobs.count(), store.failed_jobs.count(queue="q")) == (3, 3)

    def test_a_claim_that_has_run_out_leaves_the_record_to_the_next(self, store: Store, advance: Advance) -> None:
        def play(scene: str, done_within: Deadlines) -> None:
            store.failed_jobs.record(failed(scene))
            assert claim(store, "first", advance.short, scene) is not None
            refused = claim(store, "second", advance.short, scene)
            done_within(1)
            assert refused is None
            advance(advance.short)
            assert claim(store, "second", advance.long, scene) == failed(scene)
            assert claim(store, "first", advance.long, scene) is None
            assert not store.failed_jobs.forget(scene, owner="first")
            assert not store.failed_jobs.release(scene, owner="first")
            assert store.failed_jobs.forget(scene, owner="second")
            assert store.failed_jobs.find(scene) is None

        in_time(advance, play)

    def test_an_owner_removes_what_it_claimed_also_when_its_lease_is_over(self, store: Store, advance: Advance) -> None:
        store.failed_jobs.record(failed())
        claim(store, "first", advance.short)
        advance(advance.short)
        assert store.failed_jobs.forget("job", owner="first")
        assert not store.failed_jobs.forget("job", owner="first")
        assert store.failed_jobs.count() == store.failed_jobs.count(queue="default") == 0

    def test_what_is_given_up_may_be_claimed_at_once(self, store: Store, advance: Advance) -> None:
        store.failed_jobs.record(failed())
        assert not store.failed_jobs.release("job", owner="first")
        claim(store, "first", advance.long)
        assert not store.failed_jobs.release("job", owner="second")
        assert not store.failed_jobs.release("nobody", owner="first")
        assert claim(store, "second", advance.long) is None
        assert store.failed_jobs.release("job", owner="first")
        assert claim(store, "second", advance.long) == failed()

    def test_a_failure_of_a_claimed_job_is_new_and_stays(self, store: Store, advance: Advance) -> None:
        """It was sent, and has failed again before whoever sent it could remove the record."""
        store.failed_jobs.record(failed(queue="old", batch_id="batch"))
        store.failed_jobs.record(failed("other", minutes=5))
        claim(store, "first", advance.long)
        assert store.failed_jobs.record(failed(minutes=5, queue="new", batch_id="batch"))
        assert not store.failed_jobs.record(failed(minutes=6, queue="newest"))
        assert not store.failed_jobs.forget("job", owner="first")
        assert not store.failed_jobs.release("job", owner="first")
        found = store.failed_jobs.find("job")
        assert found == failed(minutes=5, queue="new", batch_id="batch")
        assert found.claimed_until is None
        assert store.failed_jobs.interrupted("batch") == []
        assert [job.id for job in store.failed_jobs.all()] == ["job", "other"], "it arrived after the other"
        assert (store.failed_jobs.count(queue="old"), store.failed_jobs.count(queue="new")) == (0, 1)
        assert claim(store, "second", advance.long) is not None

    def test_a_failure_after_a_claim_that_came_to_no_end_is_new(self, store: Store, advance: Advance) -> None:
        """Nobody knows whether such a job was sent; that it failed once more says that it was."""
        for end in ("runs out", "given up"):
            store.failed_jobs.record(failed(end))
            claim(store, "first", advance.short, end)
        advance(advance.short)
        store.failed_jobs.release("given up", owner="first")
        for end in ("runs out", "given up"):
            assert store.failed_jobs.record(failed(end, minutes=1))
            assert store.failed_jobs.find(end) == failed(end, minutes=1)
        assert store.failed_jobs.count() == 2

    def test_a_claim_is_not_kept_with_another_record(self, store: Store, advance: Advance) -> None:
        store.failed_jobs.record(failed())
        claimed = claim(store, "first", advance.long)
        assert claimed is not None
        assert store.failed_jobs.forget("job"), "whoever says so removes it"
        assert store.failed_jobs.record(claimed)
        found = store.failed_jobs.find("job")
        assert found == failed()
        assert found.claimed_until is None
        assert not store.failed_jobs.forget("job", owner="first")
        assert claim(store, "second", advance.long) == failed()
        assert store.failed_jobs.flush() == 1
        assert store.failed_jobs.count() == 0

    def test_claims_that_came_to_no_end_are_found_by_batch(self, store: Store, advance: Advance) -> None:
        for number, job_id in enumerate(["ended", "given up", "ran out", "lasts", "unclaimed", "removed"]):
            store.failed_jobs.record(failed(job_id, minutes=-number, batch_id="bätch {1}:*"))
        store.failed_jobs.record(failed("of another", batch_id="bätch {1}:*:"))
        store.failed_jobs.record(failed("of none"))
        assert store.failed_jobs.interrupted("bätch {1}:*") == []
        for job_id in ("ended", "given up", "ran out", "removed", "of another", "of none"):
            assert claim(store, "first", advance.short, job_id) is not None
        claim(store, "first", advance.long, "lasts")
        store.failed_jobs.forget("ended", owner="first")
        store.failed_jobs.forget("removed")
        store.failed_jobs.release("given up", owner="first")
        advance(advance.short)
        interrupted = store.failed_jobs.interrupted("bätch {1}:*")
        assert [job.id for job in interrupted] == ["ran out", "given up"]
        assert all(job.claimed_until is not None for job in interrupted)
        assert interrupted[0] == failed("ran out", minutes=-2, batch_id="bätch {1}:*")
        assert [job.id for job in store.failed_jobs.interrupted("bätch {1}:*:")] == ["of another"]
        assert store.failed_jobs.interrupted("nobody's") == []
        assert store.failed_jobs.flush() == 6
        assert store.failed_jobs.interrupted("bätch {1}:*") == []

    def test_very_many_claims_that_came_to_no_end_are_found(self, store: Store, advance: Advance) -> None:
        for number in range(550):
            store.failed_jobs.record(failed(f"job-{number}", minutes=number, batch_id="batch"))
            claim(store, "first", advance.long, f"job-{number}")
            store.failed_jobs.release(f"job-{number}", owner="first")
        interrupted = store.failed_jobs.interrupted("batch")
        assert [job.id for job in interrupted] == [f"job-{number}" for number in range(550)]
