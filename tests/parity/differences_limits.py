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
    """A start that is counted in the window that begins at an instant; ``kept_for`` a job that has not come yet."""

    window: float
    kept_for: Job | None = None


class Grids:
    """For each key, windows without gaps between them, the first of which the first start opened."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._opened: dict[Hashable, float] = {}
        self._starts: dict[Hashable, list[Start]] = {}

    def take(self, limits: Sequence[LimitOf], job: Job | None) -> float | list[tuple[Hashable, Start]]:
        """Starts under all these keys, or the seconds until the job's own are due; they are kept for it."""
        self._forget_the_past(limits)
        mine = {limit: self._kept(limit.key, job) for limit in limits}
        if all(mine.values()):
            wait = max(start.window for start in mine.values() if start is not None) - self._now()
            if wait > 0:
                return wait
            return [(limit.key, self._claim(start)) for limit, start in mine.items() if start is not None]
        for limit, start in mine.items():
            if start is not None:
                self._starts[limit.key].remove(start)
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
        for key, starts in self._starts.items():
            self._starts[key] = [start for start in starts if start.kept_for is not job]

    def _kept(self, key: Hashable, job: Job | None) -> Start | None:
        return next((start for start in self._starts.get(key, ()) if job is not None and start.kept_for is job), None)

    @staticmethod
    def _claim(start: Start) -> Start:
        start.kept_for = None
        return start

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
        start = Start(self._window(limit, instant), kept_for)
        self._opened.setdefault(limit.key, self._now())
        self._starts.setdefault(limit.key, []).append(start)
        return start

    def _forget_the_past(self, limits: Sequence[LimitOf]) -> None:
        for limit in limits:
            starts = self._starts.get(limit.key, [])
            self._starts[limit.key] = [start for start in starts if start.window + limit.seconds > self._now()]
            if not self._starts[limit.key]:
                self._opened.pop(limit.key, None)


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
        found = self.grids.take(limits, run.job if keeps else None) if limits else []  # 14, 15
        if isinstance(found, float):
            if releases:
                run.release(found)
            return
        try:
            go_on()
        finally:
            if not run.entered:
                self.grids.give_back(found)

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

    def give_up_slots(self, job: Job) -> None:
        self.grids.give_up(job)
