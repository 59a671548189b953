# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What a `LimitStore` has to do for callers who come late to what is kept for them, so that no window passes unused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

import pytest

from celery_laravel.stores.records import Window
from celery_laravel.testing.store_suite.limits import HOUR, count
from celery_laravel.testing.store_suite.times import VirtualTime, in_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import LimitAnswer
    from celery_laravel.testing.store_suite.times import Advance, Deadlines

SECOND = 1_000_000
"""Microseconds."""
HOURLY, DAILY = Window("hour", 1, HOUR), Window("day", 2, 24 * HOUR)


def come(store: Store, caller: str | None, limit: int = 2, *, is_overdue: bool = True) -> LimitAnswer:
    """Ask for a start in the day alone."""
    return store.limits.take("limiter", [Window("day", limit, 24 * HOUR)], caller=caller, is_overdue=is_overdue)


class UnclaimedSuite:
    """Who may have a start that is kept for another.

    A caller who is refused for the sake of a full hour is kept a start in the
    present day: there a start is unclaimed without any time having to pass.
    """

    @pytest.fixture(name="kept")
    def keep_one(self, store: Store) -> LimitAnswer:
        """A day with two starts counted, of which one is kept for "a"."""
        assert store.limits.take("limiter", [HOURLY, DAILY]).granted
        kept = store.limits.take("limiter", [HOURLY, DAILY], caller="a")
        assert not kept.granted
        assert count(store, "day") == 2
        return kept

    def test_who_is_overdue_is_granted_what_is_kept_for_another(self, store: Store, kept: LimitAnswer) -> None:
        granted = come(store, "late")
        assert granted.granted
        assert granted.slots == kept.slots[1:]
        assert count(store, "day") == 2

    def test_no_more_are_granted_than_the_limit(self, store: Store, kept: LimitAnswer) -> None:
        assert [come(store, caller).granted for caller in "bcd"] == [True, False, False]
        assert count(store, "day") == 2
        assert not come(store, "e", limit=1).granted, "a limit that was lowered meanwhile"

    def test_who_is_overdue_is_refused_where_hits_have_used_the_limit_up(self, store: Store, kept: LimitAnswer) -> None:
        assert store.limits.hit("limiter", "day", seconds=24 * HOUR) == 3
        assert not come(store, "late").granted
        assert come(store, "later", limit=4).granted
        assert count(store, "day") == 4, "there was room"

    def test_a_newcomer_is_not_granted_what_is_kept_for_another(self, store: Store, kept: LimitAnswer) -> None:
        assert not come(store, "b", is_overdue=False).granted
        assert not come(store, None, is_overdue=False).granted
        assert not come(store, None, is_overdue=True).granted, "nothing was kept for nobody"
        assert count(store, "day") == 2

    def test_room_is_used_before_what_is_kept(self, store: Store, kept: LimitAnswer) -> None:
        assert [come(store, caller, limit=4).granted for caller in "bc"] == [True, True]
        assert count(store, "day") == 4
        assert come(store, "d", limit=4).granted
        assert count(store, "day") == 4
        assert not come(store, "e", limit=4).granted

    def test_all_windows_must_have_a_start_for_who_is_overdue(self, store: Store, kept: LimitAnswer) -> None:
        windows = [DAILY, HOURLY]
        assert not store.limits.take("limiter", windows, caller="b", is_overdue=True).granted
        windows = [DAILY, Window("another", 1, HOUR)]
        assert store.limits.take("limiter", windows, caller="c", is_overdue=True).granted
        assert (count(store, "day"), count(store, "another")) == (2, 1)

    def test_dropping_what_another_was_granted_drops_nothing(self, store: Store, kept: LimitAnswer) -> None:
        assert come(store, "late").granted
        for _ in range(2):
            store.limits.cancel("limiter", ["hour", "day"], caller="a")
        assert count(store, "day") == 2
        assert not come(store, "b").granted

    def test_dropping_what_nobody_was_granted_makes_room(self, store: Store, kept: LimitAnswer) -> None:
        store.limits.cancel("limiter", ["hour", "day"], caller="a")
        assert count(store, "day") == 1
        assert come(store, "b", is_overdue=False).granted

    def test_giving_back_takes_nothing_of_what_is_kept(self, store: Store, kept: LimitAnswer) -> None:
        for _ in range(3):
            store.limits.give_back("limiter", kept.slots[1:])
        assert count(store, "day") == 1, "one was granted"
        assert come(store, "late", limit=1).granted
        assert not come(store, "later", limit=1).granted

    def test_a_start_of_another_that_is_given_back_may_be_had_by_anybody(self, store: Store, kept: LimitAnswer) -> None:
        granted = come(store, "late")
        store.limits.give_back("limiter", granted.slots)
        assert count(store, "day") == 1
        assert come(store, "b", is_overdue=False).granted

    def test_who_finds_its_start_gone_is_refused_and_kept_another(self, store: Store, advance: Advance) -> None:
        """Whether it comes within its window, or late because the machine is busy, the books are the same."""
        windows = [Window("short", 1, advance.short.total_seconds() * 10), DAILY]

        def play(name: str, by: Deadlines) -> None:
            assert store.limits.take(name, windows).granted
            kept = store.limits.take(name, windows, caller="a")
            by(10)
            assert not kept.granted
            assert store.limits.take(name, [DAILY], caller="late", is_overdue=True).granted
            advance(advance.short * 10)
            again = store.limits.take(name, windows, caller="a", is_overdue=True)
            assert not again.granted
            assert again.slots[1].window_start - kept.slots[1].window_start == pytest.approx(24 * HOUR)
            assert store.limits.look(name, "day").count == 2
            store.limits.cancel(name, ["short", "day"], caller="a")
            assert store.limits.look(name, "day").count == 2

        in_time(advance, play)

    def test_who_is_overdue_but_kept_a_start_waits_for_it(self, store: Store, kept: LimitAnswer) -> None:
        again = store.limits.take("limiter", [HOURLY, DAILY], caller="a", is_overdue=True)
        assert (again.granted, again.slots) == (False, kept.slots)
        assert count(store, "day") == 2


@dataclass
class Backlog:
    """Callers of whom each comes some windows later than it was told: who starts when, and who is refused.

    What is found is in microseconds of the store's clock, which an answer tells:
    the start that is kept lies its delay ahead.
    """

    store: Store
    advance: Advance
    limit: int
    seconds: float
    begun: Counter[int] = field(default_factory=Counter)
    refused_in: list[int] = field(default_factory=list)
    deliveries: int = 0

    def work_off(self, callers: int, windows_late: Callable[[int], int]) -> None:
        """Let all come until each has started."""
        waiting = [(0.0, number) for number in range(callers)]
        heapify(waiting)
        now = 0.0
        known: set[int] = set()
        while waiting:
            assert self.deliveries < 20 * callers, "they come and come, and hardly any starts"
            due, number = heappop(waiting)
            if due > now:
                self.advance(timedelta(seconds=due - now))
                now = due
            answer = self._come(number, is_overdue=number in known)
            if not answer.granted:
                known.add(number)
                late = windows_late(number) * self.seconds + self.seconds / 100
                heappush(waiting, (now + answer.delay + late, number))

    def _come(self, number: int, *, is_overdue: bool) -> LimitAnswer:
        self.deliveries += 1
        window = Window("key", self.limit, self.seconds)
        answer = self.store.limits.take("limiter", [window], caller=f"caller-{number}", is_overdue=is_overdue)
        start, length = round(answer.slots[0].window_start * SECOND), round(self.seconds * SECOND)
        if answer.granted:
            self.begun[start] += 1
        elif is_overdue:
            now = start - round(answer.delay * SECOND)
            self.refused_in.append(start - -(-(start - now) // length) * length)
        return answer

    def starts_by_window(self) -> list[int]:
        """How many started in each window, from the first to the last in which any did."""
        first, length = min(self.begun), self.seconds * SECOND
        numbers = Counter({round((start - first) / length): count for start, count in self.begun.items()})
        return [numbers[number] for number in range(max(numbers) + 1)]


def check(backlog: Backlog, callers: int) -> None:
    """Hold what is so however fast a machine is: who is overdue is refused only where all starts were granted."""
    assert sum(backlog.begun.values()) == callers
    assert max(backlog.begun.values()) <= backlog.limit
    unused = [window for window in backlog.refused_in if backlog.begun[window] < backlog.limit]
    assert not unused, "somebody was refused in a window that then passed unused"


class LatenessSuite:
    """However late all come, no window that somebody comes in passes unused, and none has too many."""

    @pytest.mark.parametrize("late", [1, 3])
    def test_callers_who_are_all_late_by_the_same_use_all_windows(
        self, store: Store, advance: Advance, late: int
    ) -> None:
        backlog = Backlog(store, advance, limit=2, seconds=advance.short.total_seconds() * 2)
        backlog.work_off(16, lambda _: late)
        check(backlog, 16)
        if isinstance(advance, VirtualTime):  # a server's clock goes on while it is asked
            assert backlog.starts_by_window() == [2, *[0] * late, *[2] * 7]
            assert backlog.deliveries == 2 + 2 * 14

    def test_callers_who_are_late_by_this_and_that_use_all_windows_they_come_in(
        self, store: Store, advance: Advance
    ) -> None:
        backlog = Backlog(store, advance, limit=2, seconds=advance.short.total_seconds() * 2)
        backlog.work_off(20, lambda number: (number * 7) % 4)
        check(backlog, 20)
