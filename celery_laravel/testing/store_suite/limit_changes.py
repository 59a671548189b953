# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What a `LimitStore` has to do with starts that are given back, given up, counted anyway or forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_laravel.stores.records import Slot, WindowState
from celery_laravel.testing.store_suite.limits import CLOSE, HOUR, count, starts, take

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance


class LimitChangeSuite:
    """How starts are given back, given up, counted anyway and forgotten."""

    def test_a_start_given_back_may_be_had_by_another(self, store: Store) -> None:
        answers = [take(store) for _ in range(2)]
        store.limits.give_back("limiter", answers[0].slots)
        assert count(store) == 1
        assert take(store).granted
        assert not take(store).granted

    def test_when_all_is_given_back_the_next_start_opens_a_first_window(self, store: Store, advance: Advance) -> None:
        first = take(store)
        store.limits.give_back("limiter", first.slots)
        assert store.limits.look("limiter", "key") == WindowState()
        advance(advance.short)
        second = take(store)
        later = second.slots[0].window_start - first.slots[0].window_start
        assert later >= advance.short.total_seconds() - CLOSE

    def test_giving_back_what_is_not_there_changes_nothing(self, store: Store, advance: Advance) -> None:
        seconds = advance.short.total_seconds()
        passed = take(store, seconds=seconds, key="passed")
        advance(advance.short * 1.5)
        take(store, seconds=seconds * 1000, key="passed")
        start = take(store).slots[0].window_start
        odd = [Slot("key", start + offset) for offset in (HOUR, -HOUR, HOUR / 2, 1e-3, -1e-3)]
        for slots in (passed.slots, odd, [Slot("unknown", start)], []):
            store.limits.give_back("limiter", slots)
        assert (count(store), count(store, "passed")) == (1, 1)

    def test_a_start_given_back_is_the_first_to_be_had(self, store: Store) -> None:
        granted = take(store, 1)
        kept = [take(store, 1, caller=f"caller-{number}") for number in range(5)]
        store.limits.cancel("limiter", ["key"], caller="caller-1")
        store.limits.cancel("limiter", ["key"], caller="caller-3")
        newcomers = [take(store, 1, caller=f"new-{number}") for number in range(3)]
        assert starts([granted, *newcomers]) == [0, 2, 4, 6]
        store.limits.give_back("limiter", granted.slots)
        assert take(store, 1, caller="another").granted
        assert starts([granted, *kept]) == [0, 1, 2, 3, 4, 5]

    def test_only_what_is_kept_for_the_caller_is_cancelled(self, store: Store) -> None:
        granted = [take(store, 1, caller=caller) for caller in "abc"]
        for caller in ("a", "unknown", "b", "b"):
            store.limits.cancel("limiter", ["key", "unknown"], caller=caller)
        store.limits.cancel("limiter", [], caller="c")
        assert count(store) == 1, "a was granted"
        assert take(store, 1, caller="c").slots == granted[2].slots
        assert starts([granted[0], take(store, 1, caller="d"), take(store, 1, caller="b")]) == [0, 1, 3]

    def test_a_start_is_counted_whatever_the_limit(self, store: Store) -> None:
        assert [store.limits.hit("limiter", "key", seconds=HOUR) for _ in range(3)] == [1, 2, 3]
        assert not take(store, 3).granted
        assert store.limits.hit("limiter", "key", seconds=HOUR) == 4
        assert take(store, 5).granted
        assert count(store) == 5

    def test_a_hit_in_a_window_that_is_full_stays_counted(self, store: Store) -> None:
        granted = take(store, 1)
        kept = take(store, 1, caller="a")
        store.limits.hit("limiter", "key", seconds=HOUR)
        store.limits.give_back("limiter", granted.slots)
        assert not take(store, 1).granted
        assert starts([granted, kept, take(store, 1, caller="b")]) == [0, 1, 2]
        store.limits.give_back("limiter", granted.slots)
        assert take(store, 1).granted

    def test_hits_are_counted_anew_in_the_next_window(self, store: Store, advance: Advance) -> None:
        seconds = advance.short.total_seconds()
        store.limits.hit("limiter", "key", seconds=seconds)
        advance(advance.short)
        assert store.limits.hit("limiter", "key", seconds=seconds) == 1

    def test_looking_changes_nothing(self, store: Store) -> None:
        assert store.limits.look("limiter", "key") == WindowState(0, 0)
        take(store, 1)
        take(store, 1, caller="a")
        for _ in range(2):
            state = store.limits.look("limiter", "key")
            assert state.count == 1
            assert state.ends_in == pytest.approx(HOUR, abs=10)
            assert state.ends_in <= HOUR

    def test_a_key_is_forgotten_with_all_that_is_kept(self, store: Store) -> None:
        take(store, 1)
        take(store, 1, caller="a")
        take(store, 1, key="another")
        assert store.limits.clear("limiter", "key")
        assert not store.limits.clear("limiter", "key")
        assert not store.limits.clear("limiter", "unknown")
        assert take(store, 1, caller="a").granted
        assert round(take(store, 1, caller="a").delay / HOUR, 1) == 1
        assert not take(store, 1, key="another").granted

    def test_a_key_whose_windows_have_passed_is_not_known(self, store: Store, advance: Advance) -> None:
        take(store, 1, seconds=advance.short.total_seconds())
        advance(advance.short)
        assert not store.limits.clear("limiter", "key")

    def test_pruning_removes_only_keys_whose_windows_have_passed(self, store: Store, advance: Advance) -> None:
        for key in ("one", "two"):
            take(store, 1, seconds=advance.short.total_seconds(), key=key)
        take(store, 1, key="young", seconds=advance.long.total_seconds())
        advance(advance.short)
        assert store.limits.prune() in {0, 2}
        assert store.limits.prune() == 0
        assert not take(store, 1, key="young", seconds=advance.long.total_seconds()).granted
