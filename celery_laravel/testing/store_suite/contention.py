# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What has to hold when many ask for the same locks, starts and places at the same time."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING

from celery_laravel.stores.records import LimitAnswer, StartStatus, Window
from celery_laravel.testing.store_suite.attempt_locks import begin_with
from celery_laravel.testing.store_suite.concurrency import THREADS, at_once
from celery_laravel.testing.store_suite.debounces import confirm, dispatch, numbers, reserve
from celery_laravel.testing.store_suite.delays import delayed, entries
from celery_laravel.testing.store_suite.limits import HOUR, starts, take
from celery_laravel.testing.store_suite.locks import acquire, owners
from celery_laravel.testing.store_suite.times import VirtualTime

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance

_CLOCK = Lock()


def wait(advance: Advance, seconds: float) -> None:
    """Let time pass for one of several threads; a clock that is moved by hand is moved by one after another."""
    if isinstance(advance, VirtualTime):
        with _CLOCK:
            advance(timedelta(seconds=seconds))
    else:
        time.sleep(seconds)


class ContentionSuite:
    """Of many that want the same, as many get it as there is."""

    def test_one_of_many_takes_a_lock(self, store: Store) -> None:
        for number in range(10):
            key = f"lock-{number}"
            answers = at_once(lambda thread, key=key: acquire(store, f"owner-{thread}", key))  # type: ignore[misc]
            assert Counter(answer.acquired for answer in answers) == {True: 1, False: THREADS - 1}
            (winner,) = owners(store, key)
            assert {answer.owner for answer in answers} == {winner}

    def test_as_many_as_there_are_slots_take_a_lock(self, store: Store) -> None:
        for number in range(5):
            key = f"lock-{number}"
            answers = at_once(lambda thread, key=key: acquire(store, f"owner-{thread}", key, slots=3))  # type: ignore[misc]
            assert sum(answer.acquired for answer in answers) == len(owners(store, key)) == 3

    def test_a_lock_that_goes_from_hand_to_hand_has_one_holder_at_a_time(self, store: Store) -> None:
        inside: list[int] = []
        seen: list[int] = []

        def work(thread: int) -> int:
            held = 0
            while held < 5:
                if acquire(store, f"owner-{thread}", ttl=timedelta(minutes=5)).acquired:
                    held += 1
                    inside.append(thread)
                    seen.append(len(inside))
                    inside.remove(thread)
                    assert store.locks.release(["lock"], owner=f"owner-{thread}") == {"lock": None}
            return held

        assert at_once(work) == [5] * THREADS
        assert seen == [1] * THREADS * 5

    def test_one_of_many_frees_a_lock(self, store: Store) -> None:
        for _ in range(5):
            acquire(store)
            acquire(store, "b", payload="text")
            freed = at_once(lambda _: store.locks.release(["lock"], owner="a"))
            assert [answer for answer in freed if answer] == [{"lock": "text"}]

    def test_one_of_many_attempts_starts_under_the_lock_they_need(self, store: Store) -> None:
        for _ in range(5):
            starts = at_once(lambda thread: begin_with(store, f"job-{thread}", holder=f"owner-{thread}").status)
            assert Counter(starts) == {StartStatus.STARTED: 1, StartStatus.LOCKED: THREADS - 1}
            store.locks.free("lock")
            for thread in range(THREADS):
                store.attempts.forget(f"job-{thread}")

    def test_as_many_start_as_the_limit_says(self, store: Store) -> None:
        answers = at_once(lambda _: [take(store, 10) for _ in range(4)])
        assert sum(answer.granted for four in answers for answer in four) == 10

    def test_callers_at_once_are_kept_starts_of_their_own(self, store: Store) -> None:
        first = take(store, 3)
        answers = at_once(lambda thread: [take(store, 3, caller=f"{thread}-{number}") for number in range(4)])
        windows = Counter(starts([first, *(answer for four in answers for answer in four)]))
        assert windows == dict.fromkeys(range(11), 3)

    def test_starts_in_several_windows_at_once_are_counted_in_all_or_none(self, store: Store) -> None:
        windows = [[Window("one", 9, HOUR), Window("two", 7, HOUR)], [Window("two", 7, HOUR), Window("one", 9, HOUR)]]
        answers = at_once(lambda thread: [store.limits.take("limiter", windows[thread % 2]) for _ in range(3)])
        assert sum(answer.granted for three in answers for answer in three) == 7
        assert [store.limits.look("limiter", key).count for key in ("one", "two")] == [7, 7]

    def test_no_window_has_more_starts_than_its_limit_as_time_goes_by(self, store: Store, advance: Advance) -> None:
        """Callers who wait for their starts, and now and then come late, for eight windows of three."""
        seconds = advance.short.total_seconds() * 2

        def come(caller: str) -> LimitAnswer:
            while not (answer := take(store, 3, seconds=seconds, caller=caller)).granted:
                wait(advance, answer.delay)
            return answer

        answers = at_once(lambda thread: [come(f"{thread}-{number}") for number in range(3)])
        begun = Counter(answer.slots[0].window_start for three in answers for answer in three)
        assert sum(begun.values()) == 3 * THREADS
        assert max(begun.values()) <= 3
        order = sorted(begun)
        assert all(later - earlier > seconds - 1e-5 for earlier, later in pairwise(order))

    def test_hits_at_once_are_all_counted(self, store: Store) -> None:
        counts = at_once(lambda _: [store.limits.hit("limiter", "key", seconds=HOUR) for _ in range(3)])
        assert sorted(count for three in counts for count in three) == list(range(1, 3 * THREADS + 1))

    def test_places_reserved_at_once_are_different(self, store: Store) -> None:
        places = at_once(lambda _: [reserve(store) for _ in range(3)])
        assert sorted(numbers(place) for three in places for place in three) == [
            (1, number) for number in range(1, 3 * THREADS + 1)
        ]

    def test_of_many_dispatches_at_once_one_runs(self, store: Store) -> None:
        places = sorted(at_once(lambda _: dispatch(store)), key=numbers)
        answers = at_once(lambda thread: store.debounces.start("key", places[thread]))
        assert answers == [f"job-1-{THREADS}"] * (THREADS - 1) + [None]

    def test_places_confirmed_at_once_leave_the_highest_the_newest(self, store: Store) -> None:
        places = [reserve(store) for _ in range(THREADS)]
        at_once(lambda thread: confirm(store, places[thread]))
        assert store.debounces.start("key", places[0]) == f"job-1-{THREADS}"

    def test_of_many_who_claim_at_once_each_message_goes_to_one(self, store: Store, advance: Advance) -> None:
        names = [f"entry-{number:02d}" for number in range(THREADS * 5)]
        store.delays.park([delayed(name) for name in names])
        claimed: list[str] = []

        def claim_until_there_is_none(_: int) -> int:
            count = 0
            while records := store.delays.claim(limit=3, lease=advance.long):
                claimed.extend(entries(records))
                count += len(records)
                assert store.delays.remove(entries(records)) == len(records)
            return count

        while store.delays.count():  # one that another was about to claim may be passed over, and is there later
            at_once(claim_until_there_is_none)
        assert sorted(claimed) == names

    def test_the_same_message_parked_by_many_at_once_is_kept_once(self, store: Store) -> None:
        at_once(lambda _: store.delays.park([delayed("one"), delayed("two")]))
        assert store.delays.count() == 2
        assert sum(at_once(lambda _: store.delays.remove(["one"]))) == 1

    def test_a_message_that_is_revoked_while_it_is_claimed_leaves_as_one_or_the_other(self, store: Store) -> None:
        for turn in range(5):
            store.delays.park([delayed(f"entry-{turn}")])

            def act(thread: int, turn: int = turn) -> list[str]:
                if thread:
                    return [record.message for record in store.delays.claim(limit=9, lease=timedelta(hours=1))]
                return [] if store.delays.revoke(f"entry-{turn}", "revoked") else ["was not there"]

            told = [message for messages in at_once(act) for message in messages]
            told += act(1)  # those who came while it was being revoked may have passed it over
            assert told in ([f"message of entry-{turn}"], ["revoked"])
            store.delays.remove([f"entry-{turn}"])
