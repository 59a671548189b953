# ruff: noqa: D102  the name of a test is its sentence
"""What a `Store` has to do beyond its capabilities."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from celery_laravel.stores.records import AttemptEnd, MemberState, StartStatus
from celery_laravel.testing.store_suite.attempts import begin, final, released, started
from celery_laravel.testing.store_suite.batch_help import CATCH, FINALLY, THEN, counts, due, ending, found, make

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store

HOUR = timedelta(hours=1)


class SettleSuite:
    """Counting a member and ending a turn in one go, and the store's own affairs."""

    def test_settling_counts_the_member_and_ends_the_turn(self, store: Store) -> None:
        make(store, 2)
        begin(store)
        change = store.settle(member=ending(0, MemberState.SUCCEEDED), attempt=final(), keep=HOUR)
        assert change is not None
        assert (change.changed, counts(change.batch), change.batch) == (True, (1, 0, 0, 1), found(store))
        assert begin(store).status is StartStatus.OVER

    def test_settling_again_changes_nothing(self, store: Store) -> None:
        make(store, 1)
        for changed in (True, False, False):
            change = store.settle(member=ending(0, MemberState.SUCCEEDED), attempt=final(), keep=HOUR)
            assert change is not None
            assert change.changed is changed
            assert due(change) == (THEN + FINALLY if changed else [])
        assert begin(store).status is StartStatus.OVER

    def test_either_part_may_be_settled_after_the_other(self, store: Store) -> None:
        make(store, 2)
        store.attempts.end(final(job="first"), keep=HOUR)
        change = store.settle(member=ending(0, MemberState.SUCCEEDED), attempt=final(job="first"), keep=HOUR)
        assert change is not None
        assert change.changed
        store.batches.end_member(ending(1, MemberState.SUCCEEDED))
        change = store.settle(member=ending(1, MemberState.SUCCEEDED), attempt=final(job="second"), keep=HOUR)
        assert change is not None
        assert not change.changed
        assert begin(store, "second").status is StartStatus.OVER

    def test_a_failure_is_settled_with_its_skips_and_exception(self, store: Store) -> None:
        make(store, 3)
        end = ending(0, MemberState.FAILED, skips=(1, 2), exception={"type": "ValueError"})
        change = store.settle(member=end, attempt=final(), keep=HOUR)
        assert change is not None
        assert (due(change), counts(change.batch)) == (CATCH + FINALLY, (0, 1, 2, 0))
        assert change.batch.first_exception == {"type": "ValueError"}
        assert change.batch.failed_job_ids == ("job-0",)

    def test_a_turn_is_ended_though_its_batch_is_not_known(self, store: Store) -> None:
        begin(store)
        member = ending(0, MemberState.SUCCEEDED, batch_id="deleted")
        assert store.settle(member=member, attempt=final(), keep=HOUR) is None
        assert begin(store).status is StartStatus.OVER
        assert store.batches.find("deleted") is None

    def test_a_job_without_a_batch_is_settled(self, store: Store) -> None:
        begin(store)
        assert store.settle(member=None, attempt=released(attempts=1, exceptions=1), keep=HOUR) is None
        assert begin(store).status is StartStatus.RELEASED
        assert begin(store, turn=1, attempts=1, exceptions=1) == started(2, 1)

    def test_a_member_without_attempts_is_settled(self, store: Store) -> None:
        make(store, 1)
        change = store.settle(member=ending(0, MemberState.SUCCEEDED), attempt=None, keep=HOUR)
        assert change is not None
        assert change.batch.finished_at is not None

    def test_settling_nothing_is_fine(self, store: Store) -> None:
        assert store.settle(member=None, attempt=None, keep=HOUR) is None

    def test_a_late_settlement_does_not_disturb_a_later_turn(self, store: Store) -> None:
        make(store, 1)
        begin(store, turn=1, attempts=1)
        store.settle(member=None, attempt=AttemptEnd("job", 0, is_final=True), keep=HOUR)
        assert begin(store, turn=1, attempts=1) == started(3)

    def test_a_store_tells_its_time_and_how_it_is_doing(self, store: Store) -> None:
        condition = store.condition()
        assert abs(condition.now - datetime.now(tz=timezone.utc)) < timedelta(minutes=1)
        assert condition.now.tzinfo is not None
        assert (condition.refusal, condition.pending_migrations) == ("", ())

    def test_a_store_answers_and_may_be_used_again_after_it_was_closed(self, store: Store) -> None:
        store.ping()
        make(store, 1)
        store.close()
        store.close()
        store.ping()
        assert store.url
