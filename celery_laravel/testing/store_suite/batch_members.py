# ruff: noqa: D102  the name of a test is its sentence
"""What a `BatchStore` has to do with the members of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_laravel.stores.records import FAILED_IDS_NAMED, MemberState
from celery_laravel.testing.store_suite.batch_help import (
    check_counts,
    counts,
    due,
    end,
    ending,
    fail,
    found,
    make,
    skip,
    succeed,
)

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store

ENDS = [MemberState.SUCCEEDED, MemberState.FAILED, MemberState.SKIPPED]


class BatchMemberSuite:
    """Every change of a member is made once, and the counts move with it."""

    def test_every_end_moves_its_own_count(self, store: Store) -> None:
        make(store, 6, allows_failures=True)
        assert counts(succeed(store, 0).batch) == (1, 0, 0, 5)
        assert counts(fail(store, 1).batch) == (1, 1, 0, 4)
        assert counts(skip(store, 2).batch) == (1, 1, 1, 3)
        assert counts(succeed(store, 5).batch) == counts(found(store)) == (2, 1, 1, 2)

    @pytest.mark.parametrize("first", ENDS)
    @pytest.mark.parametrize("second", ENDS)
    def test_a_member_ends_once(self, store: Store, first: MemberState, second: MemberState) -> None:
        make(store, 3, allows_failures=True)
        once = end(store, 1, first)
        again = end(store, 1, second, skips=(2,), exception={"type": "Late"})
        assert (once.changed, again.changed, again.due) == (True, False, ())
        assert again.batch == once.batch == found(store)

    def test_a_member_skipped_by_another_has_ended(self, store: Store) -> None:
        make(store, 3)
        fail(store, 0, skips=(1,))
        assert not succeed(store, 1).changed
        assert counts(found(store)) == (0, 1, 1, 1)

    def test_a_member_that_was_never_added_cannot_end(self, store: Store) -> None:
        make(store, 2)
        for index in (2, 3, 1_000_000, -1):
            assert not succeed(store, index).changed
        assert counts(found(store)) == (0, 0, 0, 2)
        store.batches.add("batch", 2)
        assert succeed(store, 2).changed

    def test_skips_are_counted_with_the_end_that_caused_them(self, store: Store) -> None:
        make(store, 5, is_open=True)
        change = fail(store, 1, skips=(2, 3))
        assert counts(change.batch) == (0, 1, 2, 2)

    def test_of_the_skips_only_pending_members_change(self, store: Store) -> None:
        make(store, 5, allows_failures=True)
        succeed(store, 0)
        fail(store, 1)
        assert counts(fail(store, 2, skips=(0, 1, 2, 3, 3, 99, -1)).batch) == (1, 2, 1, 1)

    def test_skips_may_follow_any_end(self, store: Store) -> None:
        make(store, 4, is_open=True)
        assert counts(succeed(store, 0, skips=(1,)).batch) == (1, 0, 1, 2)
        assert counts(skip(store, 2, skips=(3,)).batch) == (1, 0, 3, 0)

    def test_a_chain_of_thousands_is_skipped_in_one_step(self, store: Store) -> None:
        make(store, 10_000)
        change = fail(store, 0, skips=tuple(range(1, 10_000)))
        assert counts(change.batch) == (0, 1, 9_999, 0)
        assert change.batch.finished_at is not None

    def test_failed_jobs_are_known_by_their_ids(self, store: Store) -> None:
        make(store, 3, allows_failures=True)
        fail(store, 0, job_id="a")
        assert set(fail(store, 2, job_id="c").batch.failed_job_ids) == {"a", "c"}
        assert set(found(store).failed_job_ids) == {"a", "c"}

    def test_a_record_names_a_hundred_failed_jobs_and_all_are_told_when_asked_for(self, store: Store) -> None:
        """Otherwise a look at a batch of which very many failed would take very long."""
        make(store, FAILED_IDS_NAMED + 500, allows_failures=True)
        for index in range(FAILED_IDS_NAMED):
            change = fail(store, index)
        every = {f"job-{index}" for index in range(FAILED_IDS_NAMED)}
        assert set(change.batch.failed_job_ids) == set(found(store).failed_job_ids) == every
        assert sorted(store.batches.failed_ids("batch")) == sorted(every)
        for index in range(FAILED_IDS_NAMED, FAILED_IDS_NAMED + 450):  # beyond what Redis keeps packed
            change = fail(store, index)
            every.add(f"job-{index}")
        assert len(change.batch.failed_job_ids) in (0, FAILED_IDS_NAMED)
        named = found(store).failed_job_ids
        assert len(named) == len(set(named)) == FAILED_IDS_NAMED
        assert set(named) < every
        assert store.batches.all()[0] == found(store)
        assert sorted(store.batches.failed_ids("batch")) == sorted(every)

    def test_the_failed_jobs_of_a_batch_are_its_own(self, store: Store) -> None:
        for batch_id in ("batch", "other"):
            make(store, 1, batch_id=batch_id)
            fail(store, 0, batch_id=batch_id, job_id=f"of {batch_id}")
        assert store.batches.failed_ids("batch") == list(found(store).failed_job_ids) == ["of batch"]
        assert store.batches.failed_ids("nobody") == []

    def test_the_first_failure_cancels_a_batch_that_allows_none(self, store: Store) -> None:
        make(store, 3)
        cancelled_at = fail(store, 0).batch.cancelled_at
        assert cancelled_at is not None
        assert fail(store, 1).batch.cancelled_at == cancelled_at

    def test_no_failure_cancels_a_batch_that_allows_them(self, store: Store) -> None:
        make(store, 2, allows_failures=True)
        fail(store, 0)
        assert fail(store, 1).batch.cancelled_at is None

    def test_a_skipped_member_is_no_failure(self, store: Store) -> None:
        make(store, 2)
        change = skip(store, 0)
        assert (change.batch.cancelled_at, change.batch.failed_jobs, change.due) == (None, 0, ())

    def test_the_first_exception_is_kept(self, store: Store) -> None:
        make(store, 3, allows_failures=True)
        first = {"type": "ValueError", "args": ["naïve", 1, None, {"deep": [True]}]}
        assert fail(store, 1, exception=first).batch.first_exception == first
        assert fail(store, 0, exception={"type": "KeyError"}).batch.first_exception == first
        assert succeed(store, 2).batch.first_exception == first
        assert found(store).first_exception == first

    def test_a_failure_without_an_exception_leaves_none(self, store: Store) -> None:
        make(store, 2, allows_failures=True)
        assert fail(store, 0).batch.first_exception is None
        assert fail(store, 1, exception={"type": "KeyError"}).batch.first_exception is None

    def test_a_revived_member_is_pending_again(self, store: Store) -> None:
        make(store, 2, allows_failures=True)
        fail(store, 0)
        fail(store, 1)
        change = store.batches.revive("batch", 0, job_id="job-0")
        assert change is not None
        assert (change.changed, change.due) == (True, ())
        assert counts(change.batch) == counts(found(store)) == (0, 1, 0, 1)
        assert change.batch.failed_job_ids == ("job-1",)
        assert (change.batch.finished_at, found(store).finished_at) == (None, None)

    def test_a_member_is_revived_with_those_it_kept_from_running(self, store: Store) -> None:
        make(store, 4, allows_failures=True)
        fail(store, 0, skips=(1, 2))
        change = store.batches.revive("batch", 0, job_id="job-0", skips=(1, 2, 3, 99, -1))
        assert change is not None
        assert counts(change.batch) == (0, 0, 0, 4)
        assert counts(succeed(store, 1).batch) == (1, 0, 0, 3)

    def test_only_what_was_skipped_is_brought_back_by_a_revival(self, store: Store) -> None:
        make(store, 4, allows_failures=True)
        fail(store, 0)
        succeed(store, 1)
        fail(store, 2)
        change = store.batches.revive("batch", 0, job_id="job-0", skips=(1, 2, 3))
        assert change is not None
        assert counts(change.batch) == (1, 1, 0, 2)

    @pytest.mark.parametrize("state", [None, MemberState.SUCCEEDED, MemberState.SKIPPED])
    def test_only_a_failed_member_is_revived(self, store: Store, state: MemberState | None) -> None:
        make(store, 3, is_open=True)
        skip(store, 1)
        if state is not None:
            end(store, 0, state)
        before = found(store)
        for index in (0, 7, -1):
            change = store.batches.revive("batch", index, job_id=f"job-{index}", skips=(1,))
            assert change is not None
            assert (change.changed, change.due, change.batch) == (False, (), before)
        assert found(store) == before

    def test_a_member_is_revived_once(self, store: Store) -> None:
        make(store, 1)
        fail(store, 0)
        changes = [store.batches.revive("batch", 0, job_id="job-0") for _ in range(2)]
        assert [change is not None and change.changed for change in changes] == [True, False]

    def test_a_member_is_revived_only_as_the_job_that_failed(self, store: Store) -> None:
        make(store, 1)
        fail(store, 0, job_id="that")
        change = store.batches.revive("batch", 0, job_id="this")
        assert change is not None
        assert not change.changed
        assert found(store).failed_job_ids == ("that",)

    def test_a_revival_leaves_cancelled_what_was_and_keeps_the_first_exception(self, store: Store) -> None:
        make(store, 1)
        cancelled_at = fail(store, 0, exception={"type": "ValueError"}).batch.cancelled_at
        change = store.batches.revive("batch", 0, job_id="job-0")
        assert change is not None
        assert change.batch.cancelled_at == cancelled_at
        assert change.batch.first_exception == {"type": "ValueError"}

    def test_a_revived_member_ends_anew(self, store: Store) -> None:
        make(store, 1)
        for _ in range(3):
            assert fail(store, 0).changed
            store.batches.revive("batch", 0, job_id="job-0")
        change = succeed(store, 0)
        assert (change.changed, counts(change.batch)) == (True, (1, 0, 0, 0))
        assert change.batch.finished_at is not None

    def test_batches_are_counted_apart(self, store: Store) -> None:
        for batch_id in ("one", "two"):
            make(store, 2, batch_id=batch_id)
        fail(store, 0, batch_id="one")
        assert counts(found(store, "two")) == (0, 0, 0, 2)
        assert due(succeed(store, 0, batch_id="two")) == []

    def test_members_far_apart_are_told_apart(self, store: Store) -> None:
        make(store, 70_000, is_open=True)
        indices = [0, 1, 3, 4, 63, 64, 1023, 1024, 65_535, 65_536, 69_999]
        for number, index in enumerate(indices, start=1):
            change = succeed(store, index)
            assert (change.changed, change.batch.pending_jobs) == (True, 70_000 - number)
        assert not any(succeed(store, index).changed for index in indices)

    def test_ending_a_member_answers_like_finding_the_batch(self, store: Store) -> None:
        make(store, 3, name="Import", options={"a": [1]}, allows_failures=True)
        for change in (succeed(store, 0), fail(store, 1, exception={"type": "E"}), skip(store, 2)):
            check_counts(change.batch)
        assert change.batch == found(store)
        repeated = store.batches.end_member(ending(2, MemberState.SKIPPED))
        assert repeated is not None
        assert repeated.batch == found(store)
