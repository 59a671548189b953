"""The deliberate differences from Laravel in limits (14, 15, 21)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_laravel.errors import ConfigurationError, JobTimedOutError
from tests.parity.laravel import Laravel
from tests.parity.laravel_middleware import PADDING, LimitOf
from tests.parity.laravel_records import Job, Run
from tests.parity.scenario import Scenario


@dataclass
class Start:
    """A start that is counted in the window that begins at an instant, granted or ``unclaimed``: kept for a job."""

    window: float
    unclaimed: bool = False


class Grids:
    """For each key, windows without gaps between them, the first of which the first start opened."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._opened: dict[Hashable, float] = {}
        self._starts: dict[Hashable, list[Start]] = {}
        self._kept: dict[tuple[Hashable, Job], float] = {}

    def take(
        self, limits: Sequence[LimitOf], job: Job | None, *, is_overdue: bool = False
    ) -> float | list[tuple[Hashable, Start]]:
        """Starts under all these keys, or the seconds until the job's own are due; they are kept for it."""
        self._forget_the_past(limits)
        mine = [self._kept.get((limit.key, job)) for limit in limits if job is not None]
        windows = [window for window in mine if window is not None]
        if job is not None and len(windows) == len(limits):
            if max(windows) > self._now():
                return max(windows) - self._now()
            is_overdue = True  # in time is late, save that the start is its own: it goes by the same room
        for limit in limits:
            self._drop(limit.key, job)
        if job is not None and all(self._has_a_start(limit, limits, is_overdue=is_overdue) for limit in limits):
            return [(limit.key, self._count_late(limit)) for limit in limits]
        self._forget_the_past(limits)
        due = self._first_room(limits)
        if due > self._now() and job is None:
            return due - self._now()
        found = [(limit.key, self._count(limit, due, job if due > self._now() else None)) for limit in limits]
        return found if due <= self._now() else due - self._now()

    def give_back(self, starts: Sequence[tuple[Hashable, Start]]) -> None:
        for key, start in starts:
            if start in self._starts.get(key, ()):
                self._starts[key].remove(start)

    def give_up(self, job: Job) -> None:
        """Drop what is kept for a job."""
        for key in [key for key, kept_for in self._kept if kept_for is job]:
            self._drop(key, job)

    def _drop(self, key: Hashable, job: Job | None) -> None:
        window = None if job is None else self._kept.pop((key, job), None)
        unclaimed = Start(-1 if window is None else window, unclaimed=True)
        if unclaimed in self._starts.get(key, ()):
            self._starts[key].remove(unclaimed)

    def _has_a_start(self, limit: LimitOf, limits: Sequence[LimitOf], *, is_overdue: bool) -> bool:
        """Whether the present window has one, which may be another's once half of it is over, or for who is overdue."""
        if not self._is_full(limit, self._now()):
            return True
        is_shortest = limit.seconds == min(other.seconds for other in limits)
        is_half_over = 2 * (self._now() - self._window(limit, self._now())) >= limit.seconds
        return self._granted(limit) < limit.most and (is_overdue or (is_shortest and is_half_over))

    def _granted(self, limit: LimitOf) -> int:
        window = self._window(limit, self._now())
        return self._starts.get(limit.key, []).count(Start(window))

    def _count_late(self, limit: LimitOf) -> Start:
        now = self._now()
        if self._is_full(limit, now):
            self._starts[limit.key].remove(Start(self._window(limit, now), unclaimed=True))
        return self._count(limit, now, None)

    def _first_room(self, limits: Sequence[LimitOf]) -> float:
        due = self._now()
        while full := [limit for limit in limits if self._is_full(limit, due)]:
            due = min(self._window(limit, due) + limit.seconds for limit in full)
        return due

    def _is_full(self, limit: LimitOf, instant: float) -> bool:
        window = self._window(limit, instant)
        return sum(start.window == window for start in self._starts.get(limit.key, ())) >= limit.most

    def _window(self, limit: LimitOf, instant: float) -> float:
        """When the window begins that an instant lies in."""
        opened = self._opened.get(limit.key, self._now())
        return opened + (instant - opened) // limit.seconds * limit.seconds

    def _count(self, limit: LimitOf, instant: float, kept_for: Job | None) -> Start:
        start = Start(self._window(limit, instant), unclaimed=kept_for is not None)
        if kept_for is not None:
            self._kept[limit.key, kept_for] = start.window
        self._opened.setdefault(limit.key, self._now())
        self._starts.setdefault(limit.key, []).append(start)
        return start

    def _forget_the_past(self, limits: Sequence[LimitOf]) -> None:
        for limit in limits:
            starts = self._starts.get(limit.key, [])
            self._starts[limit.key] = [start for start in starts if start.window + limit.seconds > self._now()]
            if not self._starts[limit.key]:
                self._opened.pop(limit.key, None)
            for key, job in [item for item in self._kept if item[0] == limit.key]:
                if self._kept[key, job] + limit.seconds <= self._now():
                    del self._kept[key, job]


class LimitsHere(Laravel):
    """What this library does with limits."""

    def __init__(self, scenario: Scenario, version: int = 13) -> None:
        super().__init__(scenario, version)
        self.grids = Grids(lambda: self.now)

    def rate_limited(self, layer: Mapping[str, Any], run: Run, go_on: Callable[[], Any]) -> None:
        name, releases = layer["limiter"], layer.get("release", True)
        if name not in self.scenario.limiters:
            raise ConfigurationError(f"The limiter {name!r} is not defined.")  # 21
        limits = self.limits_of(name, run.job.label)
        keeps = releases and not run.is_sync
        found = self.take(run, limits) if keeps and limits else self.grids.take(limits, None)  # 14, 15
        if isinstance(found, float):
            if releases:
                run.release(found)
            return
        try:
            go_on()
        finally:
            if not run.entered:
                self.grids.give_back(found)

    def take(self, run: Run, limits: Sequence[LimitOf]) -> float | list[tuple[Hashable, Start]]:
        """Go by whether the message says that a start was kept under all keys, and note it for the next message."""
        keys = {limit.key for limit in limits}
        run.slots = set(run.job.slots) if run.slots is None else run.slots
        found = self.grids.take(limits, run.job, is_overdue=keys <= run.slots)
        run.slots = run.slots | keys if isinstance(found, float) else run.slots - keys
        return found

    def throttles_exceptions(self, layer: Mapping[str, Any], run: Run, go_on: Callable[[], Any]) -> None:
        """Timeouts and mistakes pass; the count is cleared where there was one."""
        key, kinds = self.throttle_key(layer, run), layer.get("when")
        counted = self.hits.count(key)
        if counted >= layer["max"]:
            run.release(self.hits.ends_in(key) + PADDING)
            return
        try:
            go_on()
        except (ConfigurationError, JobTimedOutError):
            raise
        except Exception as error:
            if kinds is not None and type(error).__name__ not in kinds:
                raise
            self.hits.hit(key, 60 * layer["decay_minutes"])
            run.release(60 * layer.get("backoff_minutes", 0))
        else:
            if counted:
                self.hits.clear(key)

    def put_back(self, run: Run, seconds: float) -> None:
        run.job.slots = run.job.slots if run.slots is None else run.slots
        super().put_back(run, seconds)

    def give_up_slots(self, job: Job) -> None:
        self.grids.give_up(job)
        job.slots = set()
