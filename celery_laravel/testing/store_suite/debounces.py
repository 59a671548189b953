# ruff: noqa: D102  the name of a test is its sentence
"""What a `DebounceStore` has to do."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import Place
    from celery_laravel.testing.store_suite.times import Advance

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def reserve(
    store: Store,
    key: str = "key",
    *,
    wait: timedelta = MINUTE,
    max_wait: timedelta | None = None,
    keep: timedelta = HOUR,
) -> Place:
    """Reserve a place, as a dispatch does before it publishes."""
    return store.debounces.reserve(key, wait=wait, max_wait=max_wait, keep=keep)


def confirm(store: Store, place: Place, key: str = "key", *, job_id: str = "", keep: timedelta = HOUR) -> None:
    """Confirm a place, as a dispatch does once it has published."""
    store.debounces.confirm(key, place, job_id=job_id or f"job-{place.period}-{place.number}", keep=keep)


def dispatch(store: Store, key: str = "key") -> Place:
    """Reserve and confirm a place."""
    place = reserve(store, key)
    confirm(store, place, key)
    return place


def numbers(place: Place) -> tuple[int, int]:
    """Period and number of a place."""
    return place.period, place.number


class DebounceSuite:
    """Which of several dispatches is the newest."""

    def test_places_are_numbered_from_1_and_wait(self, store: Store) -> None:
        places = [reserve(store) for _ in range(3)]
        assert [(place.period, place.number, place.delay) for place in places] == [(1, 1, 60), (1, 2, 60), (1, 3, 60)]

    def test_the_newest_may_run_and_the_others_are_told_of_it(self, store: Store) -> None:
        first, second, third = (dispatch(store) for _ in range(3))
        for _ in range(2):
            assert store.debounces.start("key", first) == store.debounces.start("key", second) == "job-1-3"
        for _ in range(2):
            assert store.debounces.start("key", third) is None
        assert store.debounces.start("key", first) == "job-1-3"

    def test_a_single_dispatch_runs(self, store: Store) -> None:
        assert store.debounces.start("key", dispatch(store)) is None

    def test_a_place_that_was_not_confirmed_supersedes_nobody(self, store: Store) -> None:
        first = dispatch(store)
        reserve(store)
        assert store.debounces.start("key", first) is None

    def test_the_highest_number_counts_in_whatever_order_places_are_confirmed(self, store: Store) -> None:
        places = [reserve(store) for _ in range(3)]
        for place in (places[2], places[0], places[1], places[2]):
            confirm(store, place)
        assert [store.debounces.start("key", place) for place in places] == ["job-1-3", "job-1-3", None]

    def test_a_period_ends_when_its_newest_starts(self, store: Store) -> None:
        old, newest = dispatch(store), dispatch(store)
        store.debounces.start("key", newest)
        next_one = dispatch(store)
        assert numbers(next_one) == (2, 1)
        assert store.debounces.start("key", old) == "job-1-2"
        assert store.debounces.start("key", next_one) is None
        assert store.debounces.start("key", newest) is None

    def test_a_superseded_job_ends_no_period(self, store: Store) -> None:
        old, _newest = dispatch(store), dispatch(store)
        store.debounces.start("key", old)
        assert numbers(reserve(store)) == (1, 3)

    def test_one_that_may_run_may_do_so_whatever_is_confirmed_meanwhile(self, store: Store) -> None:
        first, second = reserve(store), reserve(store)
        confirm(store, first)
        assert store.debounces.start("key", first) is None
        confirm(store, second)
        assert store.debounces.start("key", first) is None
        assert store.debounces.start("key", second) is None
        assert store.debounces.start("key", first) is None

    def test_one_that_starts_before_it_is_confirmed_supersedes_the_earlier(self, store: Store) -> None:
        first, second = dispatch(store), reserve(store)
        assert store.debounces.start("key", second) is None
        assert store.debounces.start("key", first) == ""
        confirm(store, second)
        assert store.debounces.start("key", first) == "job-1-2"

    def test_the_wait_ends_with_the_longest_wait(self, store: Store, advance: Advance) -> None:
        wait, longest = advance.long, advance.long * 1.5
        first = reserve(store, wait=wait, max_wait=longest, keep=advance.long * 10)
        assert first.delay == pytest.approx(wait.total_seconds(), abs=1e-3)
        advance(advance.short)
        later = reserve(store, wait=longest, max_wait=longest, keep=advance.long * 10)
        assert numbers(later) == (1, 2)
        assert later.delay <= (longest - advance.short).total_seconds() + 1e-3
        assert later.delay > longest.total_seconds() / 2

    def test_a_period_that_has_lasted_for_the_longest_wait_is_over(self, store: Store, advance: Advance) -> None:
        first = reserve(store, wait=advance.short, max_wait=advance.short)
        confirm(store, first)
        assert first.delay == pytest.approx(advance.short.total_seconds(), abs=1e-3)
        advance(advance.short)
        second = reserve(store, wait=advance.short, max_wait=advance.long)
        assert numbers(second) == (1, 2), "the longest wait is that of each request"
        third = reserve(store, wait=advance.short, max_wait=advance.short)
        assert numbers(third) == (2, 1)
        assert third.delay == pytest.approx(advance.short.total_seconds(), abs=1e-3)
        confirm(store, third)
        assert store.debounces.start("key", third) is None
        assert store.debounces.start("key", first) is None

    def test_a_late_start_in_an_earlier_period_ends_no_later_one(self, store: Store, advance: Advance) -> None:
        first = reserve(store, max_wait=advance.short)
        confirm(store, first)
        advance(advance.short)
        second = reserve(store, max_wait=advance.short)
        assert numbers(second) == (2, 1)
        assert store.debounces.start("key", first) is None
        assert numbers(reserve(store)) == (2, 2)

    def test_keys_are_apart_and_any_text(self, store: Store) -> None:
        keys = ["k", "K", "k ", "kö", "{k}:1", "k:1", "日本 '%s\\", "x" * 255]
        places = {key: [dispatch(store, key) for _ in range(2)] for key in keys}
        for key, (first, second) in places.items():
            assert (numbers(first), numbers(second)) == ((1, 1), (1, 2)), key
            assert store.debounces.start(key, first) == "job-1-2"

    def test_a_job_id_may_be_any_text(self, store: Store) -> None:
        first, second = reserve(store), reserve(store)
        confirm(store, second, job_id="jöb 1 {2} 'x'")
        assert store.debounces.start("key", first) == "jöb 1 {2} 'x'"

    def test_what_is_not_known_keeps_nobody_from_running(self, store: Store) -> None:
        place = dispatch(store, "another key")
        assert store.debounces.start("key", place) is None
        confirm(store, place)
        assert store.debounces.start("key", place) is None
        assert numbers(reserve(store)) == (1, 1)

    def test_a_key_is_forgotten_after_its_keeping_time(self, store: Store, advance: Advance) -> None:
        first = reserve(store, keep=advance.short)
        confirm(store, reserve(store, keep=advance.short), keep=advance.short)
        advance(advance.short)
        assert store.debounces.start("key", first) is None
        assert numbers(reserve(store)) == (1, 1)

    def test_confirming_keeps_a_key(self, store: Store, advance: Advance) -> None:
        for _ in range(50):
            first, second = (reserve(store, keep=advance.short * 2) for _ in range(2))
            confirm(store, second, keep=advance.long)
            advance(advance.short * 2)
            if store.debounces.start("key", first) == "job-1-2":  # else this machine was too busy to confirm in time
                return
        pytest.fail("50 times in a row, the key was forgotten though it had been confirmed")

    def test_an_earlier_period_is_remembered_for_its_own_time(self, store: Store, advance: Advance) -> None:
        old, newest = dispatch(store), dispatch(store)
        store.debounces.start("key", newest)
        reserve(store, keep=advance.short)
        advance(advance.short)
        assert store.debounces.start("key", old) == "job-1-2"

    def test_pruning_removes_only_keys_past_their_keeping_time(self, store: Store, advance: Advance) -> None:
        reserve(store, "old", keep=advance.short)
        reserve(store, "young", keep=advance.long)
        advance(advance.short)
        assert store.debounces.prune() in {0, 1}
        assert store.debounces.prune() == 0
        assert numbers(reserve(store, "old")) == (1, 1)
        assert numbers(reserve(store, "young")) == (1, 2)
