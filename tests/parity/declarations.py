"""A scenario's jobs, limiters and middleware in the words of this library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from celery_laravel.middleware import Limit, RateLimited, RateLimiter, ThrottlesExceptions, WithoutOverlapping
from celery_laravel.middleware.limits import rate_limiter
from tests.parity.errors import error_class
from tests.parity.running import Running
from tests.parity.scenario import FEATURES
from tests.parity.stage import Stage

_OPTIONS = ("tries", "max_exceptions", "timeout", "fail_on_timeout", "backoff")


class Declarations(Stage):
    """Declares a scenario's classes as tasks, and its limiters."""

    app: Any

    def make_task(self, name: str) -> Any:
        """The task of a class. Of its labels the first that declares an option speaks for all."""
        jobs = [self.job(label) for label in self.scenario.labels_of(name)]
        given = {option: _first(job.option(option) for job in jobs) for option in _OPTIONS}
        span = _first(job.option("retry_until_s") for job in jobs)
        given["retry_until"] = None if span is None else timedelta(seconds=span)
        given |= self._uniqueness(_first(job.unique for job in jobs))
        if any(job.middleware for job in jobs):
            given["middleware"] = self._middleware
        if any(job.has_hook for job in jobs):
            given["failed"] = lambda task, error, label: self.failed_hook(label, error)

        def code(task: Any, label: str) -> None:
            self.handle(label, self._voice(task))

        options = {option: value for option, value in given.items() if value is not None}
        return self.app.task(name=name, bind=True, shared=False, **options)(code)

    def _uniqueness(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        if given is None:
            return {}
        return {
            "unique": "until_processing" if given.get("until_processing") else True,
            "unique_id": lambda task, label: self._unique_id(label),
            "unique_for": given.get("for"),
        }

    def _unique_id(self, label: str) -> str:
        return str((self.job(label).unique or {}).get("id", ""))

    def members(self, jobs: Sequence[Any]) -> list[Any]:
        """The signatures of a batch's members."""
        raise NotImplementedError

    def _voice(self, task: Any) -> Running:
        return Running(task, self.members, self.note)

    # -- middleware

    def _middleware(self, task: Any, label: str) -> list[Callable[..., Any]]:
        def around(layer: Mapping[str, Any]) -> Callable[..., Any]:
            if layer["type"] in FEATURES:
                middleware: Callable[..., Any] = built_in(layer)
                return middleware
            return lambda job, following: self.pass_layer(layer, label, self._voice(job), lambda: following(job))

        return [around(layer) for layer in self.job(label).middleware]

    def pass_feature(self, layer: Mapping[str, Any], label: str, voice: Any, go_on: Callable[[], Any]) -> None:
        raise AssertionError(f"{layer!r} is the library's own middleware")

    def define_limiters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Define the scenario's limiters, and no others, until the test ends."""
        monkeypatch.setattr(rate_limiter, "_definitions", {})
        for name in self.scenario.limiters:
            RateLimiter.define(name, partial(self._limits, name))

    def _limits(self, name: str, job: Any) -> list[Limit]:
        label = job.arguments["label"]
        data: Mapping[str, Any] = self.job(label).option("data") or {}
        limits = []
        for spec in self.scenario.limiter(name):
            field, value = spec.get("unlimited_if") or (None, None)
            by = spec.get("by")
            if isinstance(by, str) and by.startswith("data."):
                by = data.get(by.removeprefix("data."))
            limit = Limit.per(60 * spec.get("per_minutes", 1), spec["max"]).by(by)
            limits.append(Limit.none() if field is not None and data.get(field) == value else limit)
        return limits

    # -- the names of locks

    def overlaps_of(self, label: str) -> list[tuple[str, Mapping[str, Any]]]:
        """The store's keys for a job's overlap locks, each with the middleware that takes it."""
        job = SimpleNamespace(name=self.job(label).class_name, arguments={"label": label})
        layers = [layer for layer in self.job(label).middleware if layer["type"] == "without_overlapping"]
        return [(built_in(layer).key_for(job), layer) for layer in layers]

    def name_of_lock(self, record: Any) -> str:
        """A lock's name in traces."""
        if record.kind == "unique":
            name, _, unique_id = record.key.removeprefix("unique:").partition(":")
            return f"unique|{name}|{unique_id}"
        for label, job in self.scenario.jobs.items():
            for key, layer in self.overlaps_of(label):
                if record.key == key:
                    return f"overlap|{job.class_name}|{layer['key']}"
        raise AssertionError(f"no job of the scenario uses the lock {record!r}")


def built_in(layer: Mapping[str, Any]) -> Any:
    """A layer of a trace as this library's middleware."""
    match layer["type"]:
        case "rate_limited":
            return RateLimited(layer["limiter"], release=layer.get("release", True))
        case "without_overlapping":
            return WithoutOverlapping(
                layer["key"], release_after=layer.get("release_after", 0), expire_after=layer.get("expire_after")
            )
        case "throttles_exceptions":
            kinds = layer.get("when")
            return ThrottlesExceptions(
                layer["max"],
                decay=60 * layer["decay_minutes"],
                by=None if layer.get("by_job") else layer.get("by"),
                by_job=bool(layer.get("by_job")),
                backoff=60 * layer.get("backoff_minutes", 0),
                when=None if kinds is None else [error_class(kind) for kind in kinds],
            )
    raise AssertionError(f"{layer!r} is not the library's own middleware")


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)
