"""The model of Laravel's queue: unique jobs, and the middleware that Laravel ships."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.parity.laravel_cache import Hits, Locks
from tests.parity.laravel_records import Run
from tests.parity.scenario import Scenario, ScenarioError
from tests.parity.stage import Stage

PADDING = 3
"""Seconds that Laravel adds to the wait for a window's end."""


@dataclass(frozen=True)
class Unique:
    """What a label's uniqueness means: the lock, its time to live (None for ever), and until when it is held."""

    key: tuple[str, str, str]
    seconds: float | None
    until_processing: bool


@dataclass(frozen=True)
class LimitOf:
    """One limit of a limiter as it applies to a job."""

    key: Hashable
    most: int
    seconds: float


class Middleware(Stage):
    """RateLimited, WithoutOverlapping and ThrottlesExceptions, with the cache that they keep their figures in."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.held = Locks(lambda: self.now)
        self.hits = Hits(lambda: self.now)

    def option(self, label: str, name: str) -> Any:
        """An option of a job, None where nothing is said."""
        return self.job(label).option(name)

    def unique_of(self, label: str) -> Unique | None:
        given = self.job(label).unique
        if given is None:
            return None
        key = ("unique", self.job(label).class_name, str(given.get("id", "")))
        return Unique(key, given.get("for") or None, bool(given.get("until_processing")))

    def pass_feature(self, layer: Mapping[str, Any], label: str, voice: Run, go_on: Callable[[], Any]) -> None:
        match layer["type"]:
            case "rate_limited":
                self.rate_limited(layer, voice, go_on)
            case "without_overlapping":
                self.without_overlapping(layer, voice, go_on)
            case "throttles_exceptions":
                self.throttles_exceptions(layer, voice, go_on)
            case _:
                raise ScenarioError(f"the model cannot play {layer!r}")

    # -- limits

    def limits_of(self, name: str, label: str) -> list[LimitOf]:
        """The limits that a limiter sets a job; none for a job that it does not limit."""
        data: Mapping[str, Any] = self.job(label).option("data") or {}
        found = []
        for spec in self.scenario.limiter(name):
            field, value = spec.get("unlimited_if") or (None, None)
            if field is not None and data.get(field) == value:
                continue
            by = spec.get("by")
            if isinstance(by, str) and by.startswith("data."):
                by = data.get(by.removeprefix("data."))
            found.append(LimitOf((name, by), spec["max"], 60.0 * spec.get("per_minutes", 1)))
        return found

    def rate_limited(self, layer: Mapping[str, Any], run: Run, go_on: Callable[[], Any]) -> None:
        name = layer["limiter"]
        for limit in self.limits_of(name, run.job.label) if name in self.scenario.limiters else ():
            if self.hits.count(limit.key) >= limit.most:
                if layer.get("release", True):
                    run.release(self.hits.ends_in(limit.key) + PADDING)
                return
            self.hits.hit(limit.key, limit.seconds)
        go_on()

    # -- locks

    def overlap_key(self, layer: Mapping[str, Any], label: str) -> tuple[str, str, str]:
        return ("overlap", self.job(label).class_name, str(layer["key"]))

    def without_overlapping(self, layer: Mapping[str, Any], run: Run, go_on: Callable[[], Any]) -> None:
        key, owner = self.overlap_key(layer, run.job.label), object()
        if not self.held.take(key, owner, layer.get("expire_after") or None):
            self.refuse_overlap(layer, run)
            return
        try:
            go_on()
        finally:
            self.held.free(key, owner)

    def refuse_overlap(self, layer: Mapping[str, Any], run: Run) -> None:
        delay = layer.get("release_after", 0)
        if delay is not None:
            run.release(delay)

    def acquire_overlap(self, label: str) -> None:
        for layer in self.overlaps_of(label):
            self.held.take(self.overlap_key(layer, label), "another process", layer.get("expire_after") or None)

    def release_overlap(self, label: str) -> None:
        for layer in self.overlaps_of(label):
            self.held.free(self.overlap_key(layer, label), "another process")

    def overlaps_of(self, label: str) -> list[Mapping[str, Any]]:
        return [layer for layer in self.job(label).middleware if layer["type"] == "without_overlapping"]

    def locks(self) -> list[str]:
        return sorted("|".join(key) for key in self.held.held())

    # -- exceptions

    def throttle_key(self, layer: Mapping[str, Any], run: Run) -> Hashable:
        if layer.get("by_job"):
            return ("throttle of a job", run.job)
        if layer.get("by") is not None:
            return ("throttle by", layer["by"])
        return ("throttle of a class", self.job(run.job.label).class_name)

    def throttles_exceptions(self, layer: Mapping[str, Any], run: Run, go_on: Callable[[], Any]) -> None:
        key, kinds = self.throttle_key(layer, run), layer.get("when")
        if self.hits.count(key) >= layer["max"]:
            run.release(self.hits.ends_in(key) + PADDING)
            return
        try:
            go_on()
        except Exception as error:
            if kinds is not None and type(error).__name__ not in kinds:
                raise
            self.hits.hit(key, 60 * layer["decay_minutes"])
            run.release(60 * layer.get("backoff_minutes", 0))
        else:
            self.hits.clear(key)
