# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What a newcomer may have of the starts that a `LimitStore` keeps for others, so that a backlog leaves none unused."""

from __future__ import annotations

from collections import Counter, deque
from datetime import timedelta
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from celery_laravel.stores.records import Window
from celery_laravel.testing.store_suite.times import VirtualTime, in_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import LimitAnswer
    from celery_laravel.testing.store_suite.times import Advance, Deadlines

SECOND = 1_000_000
"""Microseconds."""


class NewcomersSuite:
    """In the first half of a window a newcomer has nothing of what is kept for others, then all that is left."""

    def test_a_newcomer_has_what_nobody_has_come_for_by_half_of_the_window(
        self, store: Store, advance: Advance
    ) -> None:
        window = Window("key", 1, advance.short.total_seconds() * 20)

        def take(name: str, caller: str | None, *, is_overdue: bool = False) -> LimitAnswer:
            return store.limits.take(name, [window], caller=caller, is_overdue=is_overdue)

        def play(name: str, by: Deadlines) -> None:
            assert take(name, "first").granted
            kept = take(name, "a")
            by(20)
            assert not kept.granted
            advance(advance.short * 20)
            early = take(name, "early")
            by(30)
            assert not early.granted
            advance(advance.short * 11)
            for_nobody, granted = take(name, None), take(name, "b")
            count = store.limits.look(name, "key").count
            again = take(name, "a", is_overdue=True)
            by(40)
            assert not for_nobody.granted, "who cannot be put back is granted nobody's start"
            assert (granted.granted, granted.slots) == (True, kept.slots)
            assert count == 1
            assert not again.granted, "it waits for another start"
            assert again.slots[0].window_start > kept.slots[0].window_start

        in_time(advance, play)

    def test_of_several_keys_only_that_with_the_shortest_windows_gives_others_starts(
        self, store: Store, advance: Advance
    ) -> None:
        """In the longer one starts are kept for later windows of the shorter, and their callers are not late."""
        seconds = advance.short.total_seconds()
        short, other, long = (
            Window("short", 1, 8 * seconds),
            Window("other", 1, 8 * seconds),
            Window("long", 2, 20 * seconds),
        )

        def granted(name: str, windows: Sequence[Window], caller: str) -> bool:
            return store.limits.take(name, windows, caller=caller).granted

        def play(name: str, by: Deadlines) -> None:
            assert granted(name, [short, long], "first")
            is_kept = not granted(name, [short, long], "a")
            by(8)
            assert is_kept
            advance(advance.short * 13)  # half of either has passed
            has_the_longer = granted(name, [other, long], "b")
            has_the_shorter = granted(name, [short], "c")
            count = store.limits.look(name, "long").count
            by(16)
            assert (has_the_longer, has_the_shorter) == (False, True)
            assert count == 2

        in_time(advance, play)

    def test_a_backlog_that_is_delivered_for_the_first_time_leaves_hardly_a_start_unused(
        self, store: Store, advance: Advance
    ) -> None:
        """Who is turned away goes behind the others, and comes back long after what is kept for it."""
        window = Window("key", 4, advance.short.total_seconds() * 3)
        queue = Queue(store, advance, window, pace=window.seconds / 6)
        queue.work_off(40)
        assert sum(queue.begun.values()) == 40
        assert max(queue.begun.values()) <= window.limit
        if isinstance(advance, VirtualTime):  # a server's clock goes on while it is asked
            assert (max(queue.begun) - min(queue.begun)) / SECOND <= 10 * window.seconds
            assert queue.deliveries <= 1.7 * 40


class Queue:
    """A queue whose one worker takes a job at every tick; a job that is turned away goes to the end.

    One that reaches the head again before it is due waits in the worker, as
    Celery's do.
    """

    def __init__(self, store: Store, advance: Advance, window: Window, pace: float) -> None:
        self._store, self._advance, self._window, self._pace = store, advance, window, pace
        self.begun: Counter[int] = Counter()
        self.deliveries = 0

    def work_off(self, jobs: int) -> None:
        queue: deque[tuple[int, float | None]] = deque((number, None) for number in range(jobs))
        held: list[tuple[float, int]] = []
        now = 0.0
        while queue or held:
            if held and held[0][0] <= now:
                queue.appendleft((heappop(held)[1], now))
            if queue:
                number, due = queue.popleft()
                if due is not None and due > now:
                    heappush(held, (due, number))
                    continue
                answer = self._take(number, is_overdue=due is not None)
                if not answer.granted:
                    queue.append((number, now + answer.delay))
            self._advance(timedelta(seconds=self._pace))
            now += self._pace

    def _take(self, number: int, *, is_overdue: bool) -> LimitAnswer:
        self.deliveries += 1
        answer = self._store.limits.take("limiter", [self._window], caller=f"job-{number}", is_overdue=is_overdue)
        if answer.granted:
            self.begun[round(answer.slots[0].window_start * SECOND)] += 1
        return answer
