# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What an `AttemptStore` has to do."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel.stores.records import AttemptEnd, AttemptStart, StartStatus

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def begin(store: Store, job_id: str = "job", **given: Any) -> AttemptStart:
    """Start an attempt as a worker would that has just seen the job's first message."""
    wish: dict[str, Any] = {
        "turn": 0,
        "attempts": 0,
        "exceptions": 0,
        "owner": "worker-1",
        "lease": MINUTE,
        "keep": HOUR,
    }
    return store.attempts.begin(job_id, **(wish | given))


def released(
    turn: int = 0, *, attempts: int = 1, exceptions: int = 0, delay: float = 0, job: str = "job"
) -> AttemptEnd:
    """The end of a turn with the job put back."""
    return AttemptEnd(job, turn, is_final=False, attempts=attempts, exceptions=exceptions, delay=delay)


def final(turn: int = 0, *, job: str = "job") -> AttemptEnd:
    """The end of a job."""
    return AttemptEnd(job, turn, is_final=True, attempts=1)


def started(attempt: int, exceptions: int = 0) -> AttemptStart:
    """The answer to a start that was granted."""
    return AttemptStart(StartStatus.STARTED, attempt, exceptions)


class AttemptStartSuite:
    """How attempts are started and counted."""

    def test_the_first_start_is_attempt_1(self, store: Store) -> None:
        assert begin(store) == started(1)

    def test_the_message_says_what_lies_behind_the_job(self, store: Store) -> None:
        assert begin(store, turn=3, attempts=3, exceptions=2) == started(4, 2)

    def test_a_second_start_of_the_same_turn_means_that_the_first_crashed(self, store: Store) -> None:
        assert [begin(store).attempt for _ in range(4)] == [1, 2, 3, 4]

    def test_a_crash_in_a_later_turn_counts_on_top_of_what_the_message_says(self, store: Store) -> None:
        assert begin(store, turn=2, attempts=5, exceptions=4) == started(6, 4)
        assert begin(store, turn=2, attempts=5, exceptions=4) == started(7, 4)

    def test_jobs_are_counted_apart(self, store: Store) -> None:
        assert begin(store, "one") == begin(store, "two") == started(1)

    def test_ids_and_owners_may_be_any_text(self, store: Store) -> None:
        odd, owner = "jöb {1}:* 'x' %s\\", "höst @ 1 {2} 'y'"
        assert begin(store, odd, owner=owner) == started(1)
        assert begin(store, odd, owner="else").status is StartStatus.RUNNING
        assert store.attempts.renew({odd: owner}, lease=MINUTE) == {odd}
        assert begin(store, odd, owner=owner) == started(2)
        assert store.attempts.forget(odd)

    def test_a_job_may_go_through_any_number_of_turns(self, store: Store) -> None:
        assert begin(store, turn=123_456, attempts=123_456) == started(123_457)
        assert begin(store, turn=123_455).status is StartStatus.OVER

    def test_a_copy_is_kept_waiting_while_the_lease_of_another_owner_is_alive(self, store: Store) -> None:
        begin(store, lease=HOUR)
        for _ in range(2):
            copy = begin(store, owner="worker-2")
            assert copy.status is StartStatus.RUNNING
            assert 3590 < copy.delay <= 3600

    def test_a_copy_kept_waiting_changes_nothing(self, store: Store) -> None:
        begin(store)
        begin(store, owner="worker-2")
        assert store.attempts.renew({"job": "worker-1"}, lease=MINUTE) == {"job"}
        assert begin(store) == started(2)

    def test_the_attempt_after_a_crash_is_held_by_who_started_it(self, store: Store, advance: Advance) -> None:
        begin(store, lease=advance.short)
        advance(advance.short)
        assert begin(store, owner="worker-2", lease=advance.long) == started(2)
        assert begin(store, owner="worker-1").status is StartStatus.RUNNING
        assert store.attempts.renew({"job": "worker-1"}, lease=HOUR) == frozenset()

    def test_with_a_lease_of_zero_no_copy_waits(self, store: Store) -> None:
        begin(store, lease=timedelta())
        assert begin(store, owner="worker-2", lease=timedelta()) == started(2)

    def test_an_open_entry_is_forgotten_after_its_keeping_time(self, store: Store, advance: Advance) -> None:
        begin(store, lease=timedelta(), keep=advance.short)
        advance(advance.short)
        assert begin(store) == started(1)

    def test_an_entry_is_never_forgotten_while_its_lease_lasts(self, store: Store, advance: Advance) -> None:
        begin(store, lease=advance.long, keep=advance.short)
        advance(advance.short * 2)
        assert begin(store, owner="worker-2").status is StartStatus.RUNNING

    def test_a_forgotten_job_starts_at_attempt_1_again(self, store: Store) -> None:
        begin(store)
        begin(store)
        assert store.attempts.forget("job")
        assert not store.attempts.forget("job")
        assert begin(store, owner="worker-2") == started(1)

    def test_forgetting_drops_the_marker_of_a_job_that_is_over(self, store: Store) -> None:
        store.attempts.end(final(), keep=HOUR)
        assert store.attempts.forget("job")
        assert begin(store) == started(1)

    def test_pruning_removes_only_what_is_past_its_keeping_time(self, store: Store, advance: Advance) -> None:
        begin(store, "old", lease=timedelta(), keep=advance.short)
        begin(store, "young", lease=timedelta(), keep=advance.long)
        advance(advance.short)
        assert store.attempts.prune() in {0, 1}
        assert store.attempts.prune() == 0
        assert begin(store, "old") == started(1)
        assert begin(store, "young") == started(2)


class AttemptEndSuite:
    """How turns end, and what a late copy of a message is told."""

    def test_a_turn_that_put_the_job_back_answers_with_what_the_next_message_carries(self, store: Store) -> None:
        begin(store)
        assert store.attempts.end(released(attempts=1, exceptions=1, delay=3600), keep=HOUR)
        for owner in ("worker-1", "worker-2"):
            copy = begin(store, owner=owner)
            assert (copy.status, copy.attempt, copy.exceptions) == (StartStatus.RELEASED, 1, 1)
            assert 3590 < copy.delay <= 3600

    def test_a_release_need_not_count(self, store: Store) -> None:
        begin(store)
        store.attempts.end(released(attempts=0), keep=HOUR)
        assert begin(store) == AttemptStart(StartStatus.RELEASED, 0, 0, 0.0)

    def test_a_release_that_is_due_answers_with_no_delay(self, store: Store, advance: Advance) -> None:
        store.attempts.end(released(delay=advance.short.total_seconds()), keep=advance.long)
        advance(advance.short * 2)
        assert begin(store) == AttemptStart(StartStatus.RELEASED, 1, 0, 0.0)

    def test_the_next_turn_goes_on_from_its_message(self, store: Store) -> None:
        begin(store)
        store.attempts.end(released(attempts=1), keep=HOUR)
        assert begin(store, turn=1, attempts=1, owner="worker-2") == started(2)

    def test_the_next_turn_does_not_wait_for_the_lease_of_an_earlier_one(self, store: Store) -> None:
        begin(store, lease=HOUR)
        assert begin(store, turn=1, attempts=1, owner="worker-2") == started(2)

    def test_a_message_of_an_earlier_turn_is_over(self, store: Store) -> None:
        begin(store, turn=1, attempts=1)
        assert begin(store, turn=0) == AttemptStart(StartStatus.OVER)
        assert begin(store, turn=1, attempts=1) == started(3)

    def test_a_job_that_has_ended_is_over(self, store: Store) -> None:
        begin(store)
        assert store.attempts.end(final(), keep=HOUR)
        for owner in ("worker-1", "worker-2"):
            assert begin(store, owner=owner) == AttemptStart(StartStatus.OVER)

    def test_a_job_that_has_not_started_can_be_kept_from_it(self, store: Store) -> None:
        assert store.attempts.forestall("next", keep=HOUR)
        assert store.attempts.forestall("next", keep=HOUR), "whoever asks again is told the same"
        assert begin(store, "next") == AttemptStart(StartStatus.OVER)
        assert store.attempts.forget("next")
        assert begin(store, "next") == started(1)

    @pytest.mark.parametrize("state", ["running", "crashed", "released", "over"])
    def test_a_job_that_has_started_is_not_kept_from_anything(self, store: Store, state: str) -> None:
        begin(store, lease=HOUR if state == "running" else timedelta(0))
        if state == "released":
            store.attempts.end(released(), keep=HOUR)
        elif state == "over":
            store.attempts.end(final(), keep=HOUR)
        before = begin(store, owner="worker-2")
        assert not store.attempts.forestall("job", keep=HOUR)
        after = begin(store, owner="worker-2")
        expected = started(before.attempt + 1) if state == "crashed" else before
        assert after.status is expected.status
        assert after.attempt == expected.attempt

    def test_a_job_is_kept_from_starting_for_as_long_as_was_asked_for(self, store: Store, advance: Advance) -> None:
        store.attempts.forestall("old", keep=advance.short)
        advance(advance.short)
        assert begin(store, "old") == started(1)
        assert not store.attempts.forestall("old", keep=advance.short)

    def test_the_marker_of_a_final_end_stays_for_its_keeping_time(self, store: Store, advance: Advance) -> None:
        store.attempts.end(final(job="old"), keep=advance.short)
        store.attempts.end(final(job="young"), keep=advance.long)
        advance(advance.short)
        assert begin(store, "old") == started(1)
        assert begin(store, "young").status is StartStatus.OVER

    def test_the_counts_of_a_released_job_stay_for_its_delay_and_the_keeping_time(
        self, store: Store, advance: Advance
    ) -> None:
        store.attempts.end(released(delay=advance.long.total_seconds()), keep=advance.short)
        store.attempts.end(released(delay=advance.short.total_seconds(), job="soon"), keep=advance.short)
        advance(advance.short * 2)
        assert begin(store).status is StartStatus.RELEASED
        assert begin(store, "soon") == started(1)

    @pytest.mark.parametrize("end", [released(attempts=1, exceptions=1, delay=0), final()], ids=["released", "final"])
    def test_ending_a_turn_again_leaves_the_same_entry(self, store: Store, end: AttemptEnd) -> None:
        begin(store)
        assert store.attempts.end(end, keep=HOUR)
        first = begin(store)
        assert not store.attempts.end(end, keep=HOUR)
        assert begin(store) == first

    @pytest.mark.parametrize("end", [released(attempts=1, exceptions=1, delay=0), final()], ids=["released", "final"])
    def test_ending_a_turn_the_store_does_not_know_leaves_the_same_entry(self, store: Store, end: AttemptEnd) -> None:
        begin(store)
        store.attempts.end(end, keep=HOUR)
        first = begin(store)
        store.attempts.forget("job")
        assert store.attempts.end(end, keep=HOUR)
        assert begin(store) == first

    def test_ending_an_earlier_turn_changes_nothing(self, store: Store) -> None:
        begin(store, turn=1, attempts=1)
        assert not store.attempts.end(final(0), keep=HOUR)
        assert begin(store, turn=1, attempts=1) == started(3)

    def test_ending_a_later_turn_than_the_store_knows_ends_it(self, store: Store) -> None:
        begin(store)
        assert store.attempts.end(released(4, attempts=5), keep=HOUR)
        assert begin(store, turn=3).status is StartStatus.OVER
        assert begin(store, turn=4) == AttemptStart(StartStatus.RELEASED, 5, 0, 0.0)

    def test_an_attempt_may_be_ended_by_whoever_knows_its_turn(self, store: Store) -> None:
        begin(store, owner="child")
        assert store.attempts.end(final(), keep=HOUR)  # as the parent does for a child that was killed
        assert store.attempts.renew({"job": "child"}, lease=MINUTE) == frozenset()
