"""What every player of a scenario shares: the steps, the scripts of jobs, the middleware, the clock and the log."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tests.parity.errors import name_of, scripted
from tests.parity.scenario import Callback, JobDefinition, Primitive, Scenario, ScenarioError, Tree, primitives

LONGEST_DRAIN = 3600
MOST_JOBS = 60

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


class Stage(ABC):
    """Plays a scenario and logs what happens. `now` counts seconds from its start."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.now = 0.0
        self.log: list[Event] = []
        self.batch_ids: list[str] = []
        self._entries: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()

    def play(self) -> dict[str, Any]:
        """Take the steps, and say how things stand at the end."""
        for step in self.scenario.steps:
            getattr(self, f"_step_{step['op']}")(**{key: value for key, value in step.items() if key != "op"})
            self.serve_callbacks()
        return self.state()

    def note(self, event: str, **details: Any) -> None:
        self.log.append({"event": event, **details, "t": self.now})

    def job(self, label: str) -> JobDefinition:
        return self.scenario.jobs[label]

    # -- what a queue system does

    @abstractmethod
    def dispatch(self, label: str, *, delay: float | None = None, queue: str | None = None) -> None: ...

    @abstractmethod
    def dispatch_sync(self, label: str) -> None: ...

    @abstractmethod
    def dispatch_chain(
        self, labels: Sequence[str], catch: Sequence[Callback], delay: float, queue: str | None
    ) -> None: ...

    @abstractmethod
    def dispatch_batch(
        self,
        name: str,
        jobs: Sequence[Tree],
        callbacks: Mapping[str, Sequence[Callback]],
        *,
        allow_failures: bool,
        queue: str | None,
    ) -> None: ...

    @abstractmethod
    def add_to_batch(self, name: str, jobs: Sequence[Tree]) -> None:
        """Add jobs; log ``batch_added``, or raise what the queue system raises."""

    @abstractmethod
    def cancel_batch(self, name: str) -> None: ...

    @abstractmethod
    def retry_batch(self, name: str) -> None: ...

    @abstractmethod
    def retry_failed(self, label: str | None) -> None: ...

    @abstractmethod
    def set_worker(self, tries: int, backoff: float) -> None:
        """Let these options of the worker hold from now on."""

    @abstractmethod
    def work_one(self, queues: Sequence[str]) -> bool:
        """Take one job and run it; False if none is available."""

    @abstractmethod
    def serve_callbacks(self) -> None:
        """Call the callbacks that have been queued, if they are jobs of their own."""

    @abstractmethod
    def next_due(self, queues: Sequence[str]) -> float | None: ...

    @abstractmethod
    def failed_jobs(self) -> list[dict[str, Any]]: ...

    @abstractmethod
    def batch_shape(self, name: str) -> dict[str, Any]: ...

    @abstractmethod
    def queue_lengths(self, name: str) -> dict[str, int]: ...

    def state(self) -> dict[str, Any]:
        return {
            "failed_jobs": self.failed_jobs(),
            "batches": {name: self.batch_shape(name) for name in self.batch_ids},
            "locks": [],
            "queues": {name: self.queue_lengths(name) for name in self.scenario.queues},
        }

    # -- steps

    def _step_dispatch(self, job: str, delay: float | None = None, queue: str | None = None) -> None:
        self.dispatch(job, delay=delay, queue=queue)

    def _step_dispatch_sync(self, job: str) -> None:
        try:
            self.dispatch_sync(job)
        except Exception as error:
            self.note("raised_to_caller", type=name_of(error))
        else:
            self.note("returned_to_caller")

    def _step_chain(
        self, jobs: Sequence[str], catch: Sequence[Any] = (), delay: float = 0, queue: str | None = None
    ) -> None:
        self.dispatch_chain(jobs, [Callback.read(given) for given in catch], delay or 0, queue)

    def _step_batch(self, jobs: Sequence[Tree], **given: Any) -> None:
        name = given["id"]
        callbacks = {kind: [Callback.read(c) for c in given.get(kind) or ()] for kind in ("then", "catch", "finally")}
        self.batch_ids.append(name)
        self.dispatch_batch(
            name, jobs, callbacks, allow_failures=bool(given.get("allow_failures")), queue=given.get("queue")
        )
        self.note("batch_dispatched", batch=self.batch_shape(name))

    def _step_batch_add(self, batch: str, jobs: Sequence[Tree]) -> None:
        try:
            self.add_to_batch(batch, jobs)
        except Exception as error:
            self.note("batch_add_refused", type=name_of(error))

    def _step_batch_cancel(self, batch: str) -> None:
        self.cancel_batch(batch)

    def _step_work(
        self,
        queue: str = "default",
        tries: int = 1,
        backoff: float = 0,
        max_jobs: int | None = None,
        worker: str | None = None,
    ) -> None:
        self.set_worker(tries, backoff)
        for _ in range(MOST_JOBS if max_jobs is None else max_jobs):
            if not self.work_one(queue.split(",")):
                return
            self.serve_callbacks()
        if max_jobs is None:
            self.note("work_limit")

    def _step_drain(self, queue: str = "default", **options: Any) -> None:
        end = self.now + LONGEST_DRAIN
        self._step_work(queue, **options)
        while (due := self.next_due(queue.split(","))) is not None and self.now < due <= end:
            self.now = due
            self._step_work(queue, **options)

    def _step_advance(self, seconds: float) -> None:
        self.now += seconds

    def _step_retry_failed(self, job: str | None = None) -> None:
        self.retry_failed(job)

    def _step_retry_batch(self, batch: str) -> None:
        self.retry_batch(batch)

    def _step_snapshot(self, name: str) -> None:
        self.note("snapshot", name=name, state=self.state())

    # -- what runs in an attempt

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
            self._perform(primitive, voice)

    def _perform(self, primitive: Primitive, voice: Voice) -> None:
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
            "advance": lambda: self._step_advance(primitive.seconds),
        }
        if primitive.word not in actions:
            raise ScenarioError(f"nobody here can play {primitive!r}")
        actions[primitive.word]()

    def _raise(self, name: str) -> None:
        raise scripted(name)

    def pass_layer(self, layer: Mapping[str, Any], label: str, voice: Voice, go_on: Callable[[], Any]) -> None:
        """One middleware around what ``go_on`` runs."""

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
