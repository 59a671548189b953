"""What runs in an attempt: the scripts of jobs, their middleware, hooks and callbacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tests.parity.errors import name_of, scripted
from tests.parity.scenario import FEATURES, Callback, JobDefinition, Primitive, Scenario, ScenarioError, primitives

Event = dict[str, Any]


class Voice(Protocol):
    """What a running job may say, and what it may ask of its batch."""

    @property
    def attempts(self) -> int: ...

    def release(self, seconds: float) -> None: ...
    def fail(self, error: Exception | None) -> None: ...
    def delete(self) -> None: ...
    def cancel_batch(self) -> None: ...
    def add_to_batch(self, labels: Sequence[str]) -> None: ...
    def batch_shape(self) -> dict[str, Any]: ...
    def set_note(self, note: str) -> None: ...


class Performer(ABC):
    """Plays what a scenario's jobs do, and logs it. `now` counts seconds from the scenario's start."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.now = 0.0
        self.log: list[Event] = []
        self._entries: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()

    def note(self, event: str, **details: Any) -> None:
        self.log.append({"event": event, **details, "t": self.now})

    def job(self, label: str) -> JobDefinition:
        return self.scenario.jobs[label]

    def move_to(self, instant: float) -> None:
        """Let time pass."""
        self.now = instant

    @abstractmethod
    def dispatch(self, label: str, *, delay: float | None = None, queue: str | None = None) -> None: ...

    @abstractmethod
    def dispatch_sync(self, label: str) -> None: ...

    @abstractmethod
    def add_to_batch(self, name: str, jobs: Sequence[Any]) -> None:
        """Add jobs; log ``batch_added``, or raise what the queue system raises."""

    @abstractmethod
    def cancel_batch(self, name: str) -> None: ...

    @abstractmethod
    def pause(self) -> None:
        """Let the worker that runs the present attempt stand still until somebody resumes it."""

    @abstractmethod
    def crash(self) -> None:
        """Let that worker vanish; this never returns."""

    @abstractmethod
    def sleep(self, label: str, seconds: float) -> None:
        """Take that many seconds of real time, unless the attempt's time is up before."""

    @abstractmethod
    def pass_feature(self, layer: Mapping[str, Any], label: str, voice: Any, go_on: Callable[[], Any]) -> None:
        """One of the queue system's own middlewares around what ``go_on`` runs."""

    # -- a job's code

    def handle(self, label: str, voice: Voice) -> None:
        """The job's code: the action that its script has for this entry."""
        script = self.job(label).script
        action = script[min(self._entries[label], len(script) - 1)]
        self._entries[label] += 1
        self.note("handle", job=label, attempt=voice.attempts, do=action)
        for primitive in primitives(action):
            if primitive.word == "return":
                return
            if primitive.word == "if_batch_cancelled_return":
                if voice.batch_shape()["cancelled"]:
                    self.note("saw_cancelled", job=label)
                    return
                continue
            self._perform(primitive, label, voice)

    def _perform(self, primitive: Primitive, label: str, voice: Voice) -> None:
        actions: dict[str, Callable[[], None]] = {
            "ok": lambda: None,
            "raise": lambda: self._raise(primitive.name),
            "release": lambda: voice.release(primitive.seconds),
            "fail": lambda: voice.fail(None if primitive.argument is None else scripted(primitive.argument)),
            "delete": voice.delete,
            "dispatch": lambda: self.dispatch(primitive.name),
            "dispatch_sync": lambda: self.dispatch_sync(primitive.name),
            "batch.cancel": voice.cancel_batch,
            "batch.add": lambda: voice.add_to_batch(primitive.labels),
            "batch.log": lambda: self.note("batch_state", batch=voice.batch_shape()),
            "set_note": lambda: voice.set_note(primitive.name),
            "advance": lambda: self.move_to(self.now + primitive.seconds),
            "pause": self.pause,
            "crash": self.crash,
            "sleep": lambda: self.sleep(label, primitive.seconds),
        }
        if primitive.word not in actions:
            raise ScenarioError(f"nobody here can play {primitive!r}")
        actions[primitive.word]()

    def _raise(self, name: str) -> None:
        raise scripted(name)

    # -- around it

    def pass_layer(self, layer: Mapping[str, Any], label: str, voice: Voice, go_on: Callable[[], Any]) -> None:
        """One middleware around what ``go_on`` runs."""
        pass_it = self.pass_feature if layer["type"] in FEATURES else self._pass_plain_layer
        pass_it(layer, label, voice, go_on)

    def _pass_plain_layer(self, layer: Mapping[str, Any], label: str, voice: Voice, go_on: Callable[[], Any]) -> None:
        def phase(name: str) -> None:
            self.note("middleware", job=label, name=layer.get("name"), phase=name)

        phase("before")
        match layer["type"]:
            case "log":
                go_on()
                phase("after")
            case "swallow":
                try:
                    go_on()
                except Exception:
                    phase("caught")
            case "skip":
                pass
            case "release":
                voice.release(layer.get("seconds", 0))
            case "delete":
                voice.delete()
            case "fail":
                voice.fail(scripted(layer["exc"]) if layer.get("exc") else None)
            case "raise":
                raise scripted(layer["exc"])
            case _:
                raise ScenarioError(f"nobody here can play {layer!r}")

    def failed_hook(self, label: str, error: BaseException | None) -> None:
        """The job's ``failed()``, where its class has one."""
        if not self.job(label).has_hook:
            return
        self.note("failed_hook", job=label, type=name_of(error))
        action = self.job(label).hook_action
        if action is not None:
            self._act(action)

    def callback(self, kind: str, callback: Callback, error: BaseException | None, batch: str | None) -> None:
        """A batch's or a chain's callback."""
        self.note("callback", kind=kind, name=callback.name, exception=name_of(error))
        self._calls[f"{kind}:{callback.name}"] += 1
        if callback.action is None or (callback.once and self._calls[f"{kind}:{callback.name}"] > 1):
            return
        if callback.action.word == "batch.add" and batch is not None:
            self.add_to_batch(batch, callback.action.labels)
        elif callback.action.word == "batch.cancel" and batch is not None:
            self.cancel_batch(batch)
        else:
            self._act(callback.action)

    def _act(self, action: Primitive) -> None:
        if action.word == "raise":
            self._raise(action.name)
        if action.word != "dispatch":
            raise ScenarioError(f"{action!r} needs a batch")
        self.dispatch(action.name)
