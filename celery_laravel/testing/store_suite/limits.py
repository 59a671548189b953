# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What a `LimitStore` has to do."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from celery_laravel.stores.records import LimitAnswer, Window, WindowState
from celery_laravel.testing.store_suite.times import in_time

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance, Deadlines

HOUR = 3600.0
CLOSE = 1e-5
"""Seconds by which a float may miss an instant."""


def take(
    store: Store, limit: int = 2, *, seconds: float = HOUR, caller: str | None = None, key: str = "key"
) -> LimitAnswer:
    """Ask for a start in one window."""
    return store.limits.take("limiter", [Window(key, limit, seconds)], caller=caller)


def count(store: Store, key: str = "key") -> int:
    """The starts counted in the current window."""
    return store.limits.look("limiter", key).count


def starts(answers: list[LimitAnswer]) -> list[int]:
    """In which windows the only slots of these answers lie, counted in hours from the first."""
    first = answers[0].slots[0].window_start
    hours = [(answer.slots[0].window_start - first) / HOUR for answer in answers]
    assert hours == pytest.approx([round(hour) for hour in hours], abs=CLOSE)
    return [round(hour) for hour in hours]


class LimitSuite:
    """How starts are granted and refused."""

    def test_as_many_start_as_the_limit_says(self, store: Store) -> None:
        answers = [take(store, 3) for _ in range(3)]
        assert [(answer.granted, answer.delay) for answer in answers] == [(True, 0)] * 3
        assert starts(answers) == [0, 0, 0]
        assert {slot.key for answer in answers for slot in answer.slots} == {"key"}
        refused = take(store, 3)
        assert (refused.granted, refused.slots) == (False, ())
        assert refused.delay == pytest.approx(HOUR, abs=10)
        assert refused.delay <= HOUR

    def test_a_refused_caller_is_kept_a_start_in_the_first_window_with_room(self, store: Store) -> None:
        granted = [take(store, caller=f"early-{number}") for number in range(2)]
        refused = [take(store, caller=f"caller-{number}") for number in range(5)]
        assert not any(answer.granted for answer in refused)
        assert starts([granted[0], *refused]) == [0, 1, 1, 2, 2, 3]
        assert refused[0].delay == pytest.approx(HOUR, abs=10)
        assert refused[4].delay - refused[0].delay == pytest.approx(2 * HOUR, abs=10)

    def test_without_a_caller_nothing_is_kept(self, store: Store) -> None:
        take(store, 1)
        assert [round(take(store, 1).delay / HOUR, 1) for _ in range(3)] == [1, 1, 1]
        take(store, 1, caller="a")
        assert round(take(store, 1).delay / HOUR, 1) == 2

    def test_a_caller_that_comes_too_early_is_told_the_rest_of_its_wait(self, store: Store, advance: Advance) -> None:
        take(store, 1)
        first = take(store, 1, caller="a")
        advance(advance.short)
        again = take(store, 1, caller="a")
        assert (again.granted, again.slots) == (False, first.slots)
        assert again.delay <= first.delay - advance.short.total_seconds() + CLOSE
        assert count(store) == 1

    def test_a_caller_that_comes_in_time_is_granted_what_was_kept(self, store: Store, advance: Advance) -> None:
        seconds = advance.short.total_seconds() * 4

        def play(key: str, by: Deadlines) -> None:
            granted = take(store, 1, seconds=seconds, key=key)
            kept = take(store, 1, seconds=seconds, key=key, caller="a")
            advance(advance.short * 4)
            come = take(store, 1, seconds=seconds, key=key, caller="a")
            others = take(store, 1, seconds=seconds, key=key)
            by(8)
            assert come == LimitAnswer(True, 0, kept.slots)
            begins = come.slots[0].window_start - granted.slots[0].window_start
            assert begins == pytest.approx(seconds, abs=CLOSE)
            assert not others.granted, "the window has its start"

        in_time(advance, play)

    def test_a_caller_that_comes_too_late_is_a_newcomer(self, store: Store, advance: Advance) -> None:
        seconds = advance.short.total_seconds()
        take(store, 1, seconds=seconds)
        kept = take(store, 1, seconds=seconds, caller="late")
        advance(advance.short * 2)
        come = take(store, 1, seconds=seconds, caller="late")
        assert come.granted
        assert come.slots != kept.slots

    def test_a_caller_that_was_granted_is_forgotten(self, store: Store) -> None:
        assert take(store, caller="a").granted
        assert take(store, caller="a").granted
        assert not take(store, caller="a").granted
        assert count(store) == 2

    def test_once_all_windows_have_passed_a_first_one_is_opened(self, store: Store, advance: Advance) -> None:
        seconds = advance.short.total_seconds()
        first = take(store, 1, seconds=seconds)
        advance(advance.short * 1.3)
        assert store.limits.look("limiter", "key") == WindowState()
        second = take(store, 1, seconds=seconds)
        assert second.granted
        windows = (second.slots[0].window_start - first.slots[0].window_start) / seconds
        assert windows >= 1.3 - CLOSE, "it begins with the start, not on the old grid"

    def test_the_limit_may_differ_from_call_to_call(self, store: Store) -> None:
        first = take(store, 1)
        assert not take(store, 1).granted
        assert take(store, 3).granted
        callers = [take(store, limit, caller=f"{number}") for number, limit in enumerate([1, 2, 2, 1, 3, 4])]
        assert [answer.granted for answer in callers] == [False, False, False, False, True, True]
        assert starts([first, *callers]) == [0, 1, 1, 2, 3, 0, 0]

    def test_a_key_asked_for_with_other_seconds_begins_anew(self, store: Store) -> None:
        take(store, 1)
        take(store, 1, caller="a")
        assert take(store, 1, seconds=HOUR / 2).granted
        assert take(store, 1, seconds=HOUR / 2, caller="a").delay <= HOUR / 2

    def test_names_and_keys_are_apart_and_any_text(self, store: Store) -> None:
        odd = ["k", "K", "k ", "kö", "{k}", "k}:{", "1:k", "日本 '%s\\", "x" * 255]
        for name in odd:
            for key in ("k", "k ", name):
                store.limits.clear(name, key)
                answer = store.limits.take(name, [Window(key, 1, HOUR)], caller=key)
                assert answer.granted, (name, key)
                assert answer.slots[0].key == key
        assert not store.limits.take("k}:{", [Window("k ", 1, HOUR)], caller="jöb 1 {2}").granted
        assert not store.limits.take("k}:{", [Window("k ", 1, HOUR)], caller="jöb 1 {2} ").granted
        assert store.limits.look("k}:{", "k ").count == 1

    def test_very_many_callers_wait_for_a_start_of_their_own(self, store: Store) -> None:
        granted = take(store, 3, caller="first")
        answers = [take(store, 3, caller=f"caller-{number}") for number in range(200)]
        windows = Counter(starts([granted, *answers]))
        assert windows == dict.fromkeys(range(67), 3)

    def test_windows_that_make_no_sense_are_refused_by_name(self, store: Store) -> None:
        with pytest.raises(ValueError, match=r"window 'k': limit=0 would never let anything start"):
            Window("k", 0, HOUR)
        with pytest.raises(ValueError, match=r"window 'k': seconds=0 is no length of time"):
            Window("k", 1, 0)
        with pytest.raises(ValueError, match=r"limiter 'limiter': two windows have the same key"):
            store.limits.take("limiter", [Window("k", 1, HOUR), Window("k", 2, 60)])

    def test_no_window_at_all_lets_everything_start(self, store: Store) -> None:
        assert store.limits.take("limiter", [], caller="a") == LimitAnswer(True, 0, ())


class SeveralWindowsSuite:
    """How a start is counted in all windows or in none."""

    HOURLY, DAILY = Window("hour", 2, HOUR), Window("day", 3, 24 * HOUR)

    def ask(self, store: Store, caller: str | None = None) -> LimitAnswer:
        return store.limits.take("limiter", [self.HOURLY, self.DAILY], caller=caller)

    def test_a_start_is_counted_in_all_windows(self, store: Store) -> None:
        answer = self.ask(store)
        assert answer.granted
        assert [slot.key for slot in answer.slots] == ["hour", "day"]
        assert (count(store, "hour"), count(store, "day")) == (1, 1)

    def test_where_one_window_is_full_none_counts(self, store: Store) -> None:
        for _ in range(2):
            take(store, key="hour")
        assert not self.ask(store).granted
        assert (count(store, "hour"), count(store, "day")) == (2, 0)
        assert store.limits.look("limiter", "day") == WindowState()

    def test_a_caller_is_kept_the_first_instant_at_which_all_have_room(self, store: Store) -> None:
        first = self.ask(store)
        self.ask(store)
        in_an_hour, in_a_day = self.ask(store, "a"), self.ask(store, "b")
        assert [round(answer.delay / HOUR, 1) for answer in (in_an_hour, in_a_day)] == [1, 24]
        begin = first.slots[0].window_start
        hours = [[(slot.window_start - begin) / HOUR for slot in answer.slots] for answer in (in_an_hour, in_a_day)]
        assert hours == [pytest.approx([1, 0], abs=CLOSE), pytest.approx([24, 24], abs=CLOSE)]
        assert count(store, "day") == 3
        assert self.ask(store, "b").slots == in_a_day.slots

    def test_whoever_misses_one_of_its_windows_gives_up_all(self, store: Store, advance: Advance) -> None:
        windows = [Window("short", 1, advance.short.total_seconds() * 5), Window("long", 9, 24 * HOUR)]

        def play(name: str, by: Deadlines) -> None:
            store.limits.take(name, windows)
            is_kept = not store.limits.take(name, windows, caller="late").granted
            by(5)
            assert is_kept
            assert store.limits.look(name, "long").count == 2
            advance(advance.short * 10)
            assert store.limits.take(name, windows, caller="late").granted
            assert store.limits.look(name, "long").count == 2

        in_time(advance, play)

    def test_whoever_asks_for_other_keys_gives_up_what_it_asks_for_again(self, store: Store) -> None:
        for key in ("one", "two"):
            take(store, 1, key=key)
        one, two, three = (Window(key, 1, HOUR) for key in ("one", "two", "three"))
        first = store.limits.take("limiter", [one, two], caller="a")
        second = store.limits.take("limiter", [one, three], caller="a")
        third = store.limits.take("limiter", [one], caller="b")
        assert first.slots[0] == second.slots[0]
        assert round(third.delay / HOUR, 1) == 2
        assert round(take(store, 1, key="two", caller="b").delay / HOUR, 1) == 2

    def test_a_start_in_several_windows_is_given_back_in_all(self, store: Store) -> None:
        answers = [self.ask(store) for _ in range(2)]
        store.limits.give_back("limiter", answers[0].slots)
        assert (count(store, "hour"), count(store, "day")) == (1, 1)

    def test_the_windows_of_one_caller_may_begin_at_different_instants(self, store: Store, advance: Advance) -> None:
        take(store, 1, key="one")
        advance(advance.short)
        take(store, 1, key="two")
        windows = [Window("one", 1, HOUR), Window("two", 1, HOUR)]
        kept = store.limits.take("limiter", windows, caller="a")
        one, two = (slot.window_start for slot in kept.slots)
        assert two - one >= advance.short.total_seconds() - CLOSE
        assert kept.delay == pytest.approx(HOUR, abs=10), "the later of the two"
        next_one = take(store, 1, key="one").delay
        assert HOUR < next_one <= 2 * HOUR - advance.short.total_seconds() + CLOSE
