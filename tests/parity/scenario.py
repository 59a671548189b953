"""A scenario as it stands in a trace, read and checked: an unknown word is an error, never skipped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

TRACES = Path(__file__).with_name("traces")

Tree: TypeAlias = "str | list[str]"
"""A label, or the labels of a chain."""


class ScenarioError(Exception):
    """The scenario says something that the grammar does not know."""


_SCENARIO = frozenset({"name", "doc", "group", "jobs", "steps", "expected", "final"})
_OPTIONAL = frozenset({"queues", "limiters", "notes", "driver_dependent", "v13_differs", "slow"})

_JOB = {
    *{"class", "tries", "max_exceptions", "timeout", "fail_on_timeout", "backoff", "retry_until_s", "queue", "delay"},
    *{"unique", "data", "middleware", "failed_hook", "failed_hook_action", "script"},
}
_WORK = {"queue", "tries", "backoff", "max_jobs", "worker"}
_STEPS = {
    "dispatch": {"job", "delay", "queue"},
    "dispatch_sync": {"job"},
    "chain": {"jobs", "catch", "delay", "queue"},
    "batch": {"id", "jobs", "then", "catch", "finally", "allow_failures", "queue"},
    "batch_add": {"batch", "jobs"},
    "batch_cancel": {"batch"},
    "work": _WORK,
    "drain": _WORK,
    "resume": {"worker"},
    "advance": {"seconds"},
    "retry_failed": {"job"},
    "retry_batch": {"batch"},
    "acquire_overlap": {"job"},
    "release_overlap": {"job"},
    "pop_and_crash": {"queue"},
    "work_daemon": set(_WORK),
    "snapshot": {"name"},
}
_PRIMITIVES = {
    *{"ok", "return", "raise", "release", "fail", "delete", "dispatch", "dispatch_sync", "batch.cancel", "batch.add"},
    *{"batch.log", "if_batch_cancelled_return", "set_note", "advance", "pause", "crash", "sleep"},
}
_MIDDLEWARE = {
    "log": {"name"},
    "skip": {"name"},
    "swallow": {"name"},
    "delete": {"name"},
    "release": {"name", "seconds"},
    "fail": {"name", "exc"},
    "raise": {"name", "exc"},
    "rate_limited": {"limiter", "release"},
    "without_overlapping": {"key", "release_after", "expire_after"},
    "throttles_exceptions": {"max", "decay_minutes", "backoff_minutes", "by", "by_job", "when"},
}
_CALLBACK_ACTIONS = {"raise", "dispatch", "batch.add", "batch.cancel"}

_NEEDS_OF_PRIMITIVES = {
    "pause": "a worker that pauses",
    "crash": "a worker that crashes",
    "sleep": "a worker in real time",
}
_NEEDS_OF_MIDDLEWARE = {
    "rate_limited": "RateLimited",
    "without_overlapping": "WithoutOverlapping",
    "throttles_exceptions": "ThrottlesExceptions",
}
FEATURES = frozenset(_NEEDS_OF_MIDDLEWARE)
"""The middleware that is the queue system's own."""

_NEEDS_OF_STEPS = {
    "resume": "a worker that pauses",
    "pop_and_crash": "a worker that crashes",
    "work_daemon": "a worker in real time",
    "acquire_overlap": "WithoutOverlapping",
    "release_overlap": "WithoutOverlapping",
}


@dataclass(frozen=True)
class Primitive:
    """One word of an action, with what stands behind its colon."""

    word: str
    argument: str | None = None

    @property
    def seconds(self) -> float:
        return float(self._given)

    @property
    def name(self) -> str:
        return self._given

    @property
    def labels(self) -> list[str]:
        return self._given.split(",")

    @property
    def _given(self) -> str:
        if self.argument is None:
            raise ScenarioError(f"{self.word!r} needs an argument")
        return self.argument


def primitives(action: str, known: Iterable[str] = frozenset(_PRIMITIVES)) -> list[Primitive]:
    """The primitives of an action, in order."""
    found = []
    for part in action.split("+"):
        word, colon, argument = part.partition(":")
        if word not in known:
            raise ScenarioError(f"unknown action {word!r} in {action!r}")
        found.append(Primitive(word, argument if colon else None))
    return found


@dataclass(frozen=True)
class Callback:
    """A callback of a batch or a chain, and what it does when it is called."""

    name: str
    action: Primitive | None = None
    once: bool = False

    @classmethod
    def read(cls, given: str | Mapping[str, Any]) -> Callback:
        if isinstance(given, str):
            return cls(given)
        _refuse_unknown(f"callback {given!r}", given, {"name", "action", "once"})
        action = given.get("action")
        known = primitives(action, _CALLBACK_ACTIONS) if action else [None]
        return cls(given["name"], known[0], bool(given.get("once")))


@dataclass(frozen=True)
class JobDefinition:
    """What a label stands for."""

    label: str
    given: Mapping[str, Any]

    def __post_init__(self) -> None:
        _refuse_unknown(f"job {self.label!r}", self.given, _JOB)
        for action in self.script:
            primitives(action)
        for layer in self.middleware:
            if layer.get("type") not in _MIDDLEWARE:
                raise ScenarioError(f"job {self.label!r}: unknown middleware {layer!r}")
            _refuse_unknown(f"middleware {layer!r}", layer, {"type", *_MIDDLEWARE[layer["type"]]})
        _ = self.hook_action

    @property
    def class_name(self) -> str:
        return str(self.given.get("class", self.label))

    @property
    def script(self) -> Sequence[str]:
        return self.given.get("script") or ["ok"]

    @property
    def middleware(self) -> Sequence[Mapping[str, Any]]:
        layers: Sequence[Mapping[str, Any]] = self.given.get("middleware", ())
        return layers

    @property
    def unique(self) -> Mapping[str, Any] | None:
        """What is said of its uniqueness, None when it is not unique."""
        given: Mapping[str, Any] | None = self.given.get("unique")
        return given

    @property
    def queue(self) -> str | None:
        return self.given.get("queue")

    @property
    def delay(self) -> float:
        return float(self.given.get("delay") or 0)

    @property
    def has_hook(self) -> bool:
        return self.given.get("failed_hook", True) is not False

    @property
    def hook_action(self) -> Primitive | None:
        action = self.given.get("failed_hook_action")
        return primitives(action, {"raise", "dispatch"})[0] if action else None

    def option(self, name: str) -> Any:
        """An option of the job, None where nothing is said."""
        return self.given.get(name)

    def needs(self) -> Iterator[str]:
        if self.unique is not None:
            yield "unique jobs"
        for action in self.script:
            yield from (_NEEDS_OF_PRIMITIVES[p.word] for p in primitives(action) if p.word in _NEEDS_OF_PRIMITIVES)
        for layer in self.middleware:
            yield from filter(None, [_NEEDS_OF_MIDDLEWARE.get(layer["type"])])


@dataclass(frozen=True, eq=False)
class Scenario:
    """Jobs, and the steps that are taken with them."""

    name: str
    jobs: Mapping[str, JobDefinition]
    steps: Sequence[Mapping[str, Any]]
    queues: Sequence[str] = ("default",)
    limiters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Scenario:
        jobs = {label: JobDefinition(label, given) for label, given in data["jobs"].items()}
        for step in data["steps"]:
            if step.get("op") not in _STEPS:
                raise ScenarioError(f"unknown step {step!r}")
            _refuse_unknown(f"step {step!r}", step, {"op", *_STEPS[step["op"]]})
        return cls(
            data.get("name", "unnamed"), jobs, data["steps"], data.get("queues", ["default"]), data.get("limiters", {})
        )

    @cached_property
    def uses_locks(self) -> bool:
        """Whether anything in it takes a lock."""
        return bool(self.needs & {"unique jobs", "WithoutOverlapping"})

    def labels_of(self, class_name: str) -> list[str]:
        """The labels of a class, in their order."""
        return [label for label, job in self.jobs.items() if job.class_name == class_name]

    def limiter(self, name: str) -> Sequence[Mapping[str, Any]]:
        """The limits of a limiter."""
        given = self.limiters[name]
        return [given] if isinstance(given, Mapping) else given

    @cached_property
    def needs(self) -> frozenset[str]:
        """What a queue system must be able to do for it, beyond plain jobs, chains and batches."""
        found = {need for job in self.jobs.values() for need in job.needs()}
        found |= {_NEEDS_OF_STEPS[step["op"]] for step in self.steps if step["op"] in _NEEDS_OF_STEPS}
        if self.limiters:
            found.add("RateLimited")
        if any(step["op"] == "chain" and step.get("catch") for step in self.steps):
            found.add("a chain's catch")
        return frozenset(found)


@dataclass(frozen=True)
class Trace:
    """A scenario, and what Laravel did with it."""

    scenario: Scenario
    events: Sequence[Mapping[str, Any]]
    final: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Trace:
        data = json.loads(path.read_text(encoding="utf-8"))
        _refuse_unknown(path.name, data, _SCENARIO | _OPTIONAL)
        return cls(Scenario.read(data), data["expected"], data["final"])


def _refuse_unknown(what: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ScenarioError(f"{what} has unknown keys: {', '.join(unknown)}")
