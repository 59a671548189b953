"""The library itself as a player: a Celery app, a broker in memory, and a worker whose loop is turned by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery import _state, chain
from celery.app.trace import build_tracer
from celery.exceptions import Reject
from celery.worker.request import Request

from celery_laravel import Bus, clock, signals
from celery_laravel.dispatch.failed_jobs import signature_of
from celery_laravel.runtime import runtime_of
from celery_laravel.worker.defaults import defaults_of
from tests.parity.errors import name_of
from tests.parity.queues import Queues
from tests.parity.running import Running, shape_of
from tests.parity.scenario import Callback, Scenario, Tree
from tests.parity.stage import Stage
from tests.parity.virtual_app import virtual_app

CALLBACKS = "callbacks"
"""The queue of callbacks, which has a worker of its own that is always at hand."""

CAPABILITIES: frozenset[str] = frozenset()
"""What `Scenario.needs` may name and this player can do."""

_OPTIONS = ("tries", "max_exceptions", "timeout", "fail_on_timeout", "backoff")


class World(Stage):
    """Plays a scenario with this library. Virtual time starts at the present and moves only as the scenario says."""

    def __init__(
        self, scenario: Scenario, monkeypatch: pytest.MonkeyPatch, *, store: str, prefix: str = "laravel"
    ) -> None:
        super().__init__(scenario)
        self._start = float(int(clock.now()))
        monkeypatch.setattr(clock, "time", SimpleNamespace(time=lambda: self._start + self.now))
        self._previous_app = _state._tls.current_app
        self.app = virtual_app(store, prefix)
        self.bus = Bus(self.app)
        self.tasks = {name: self._make_task(name) for name in {job.class_name for job in scenario.jobs.values()}}
        self._callback = self.app.task(name="parity-callback", shared=False, typing=False)(self._run_callback)
        self.app.finalize()
        self._callbacks: list[tuple[str, Callback]] = []
        self._queues: Queues[Any] = Queues()
        self._released: set[str] = set()
        self._batches: dict[str, str] = {}
        self._channel = self.app.connection_for_read().channel()
        self._signals: dict[Any, Callable[..., None]] = {
            signals.job_exception_occurred: self._on_exception,
            signals.job_released: self._on_released,
            signals.job_failed: self._on_failed,
            signals.job_processed: self._on_processed,
        }
        for signal, receiver in self._signals.items():
            signal.connect(receiver, weak=False)

    def close(self) -> None:
        """Leave nothing behind in this process."""
        for signal, receiver in self._signals.items():
            signal.disconnect(receiver)
        for message in self._queues.all():
            message.ack()
        self._channel.connection.client.release()
        runtime_of(self.app).forget()
        self.app.close()
        _state._set_current_app(self._previous_app)

    # -- tasks

    def _make_task(self, name: str) -> Any:
        """The task of a class. Of its labels the first that declares an option speaks for all."""
        jobs = [job for job in self.scenario.jobs.values() if job.class_name == name]
        options = {option: _first(job.option(option) for job in jobs) for option in _OPTIONS}
        span = _first(job.option("retry_until_s") for job in jobs)
        options["retry_until"] = None if span is None else timedelta(seconds=span)
        given = {option: value for option, value in options.items() if value is not None}
        if any(job.middleware for job in jobs):
            given["middleware"] = self._middleware
        if any(job.has_hook for job in jobs):
            given["failed"] = lambda task, error, label: self.failed_hook(label, error)

        def code(task: Any, label: str) -> None:
            self.handle(label, self._voice(task))

        return self.app.task(name=name, bind=True, shared=False, **given)(code)

    def _voice(self, task: Any) -> Running:
        return Running(task, self._members, self.note)

    def _middleware(self, task: Any, label: str) -> list[Callable[..., None]]:
        def around(layer: Mapping[str, Any]) -> Callable[..., None]:
            return lambda job, following: self.pass_layer(layer, label, self._voice(job), lambda: following(job))

        return [around(layer) for layer in self.job(label).middleware]

    def _run_callback(self, batch: Any, *arguments: Any) -> None:
        *error, number = arguments
        kind, callback = self._callbacks[number]
        name = next(name for name, batch_id in self._batches.items() if batch_id == batch.id)
        self.callback(kind, callback, error[0] if error else None, name)

    # -- dispatch

    def dispatch(self, label: str, *, delay: float | None = None, queue: str | None = None) -> None:
        self._signature(label, queue=queue, delay=delay).apply_async()

    def dispatch_sync(self, label: str) -> None:
        self._task(label).dispatch_sync(label)

    def dispatch_chain(self, labels: Sequence[str], catch: Sequence[Callback], delay: float, queue: str | None) -> None:
        if catch:
            raise NotImplementedError("a chain's catch")
        signatures = [self._signature(label, queue=self.job(label).queue or queue) for label in labels]
        if delay:
            signatures[0].set(countdown=delay)
        chain(*signatures, app=self.app).apply_async()

    def dispatch_batch(
        self,
        name: str,
        jobs: Sequence[Tree],
        callbacks: Mapping[str, Sequence[Callback]],
        *,
        allow_failures: bool,
        queue: str | None,
    ) -> None:
        pending = self.bus.batch(self._members(jobs)).allow_failures(allow_failures)
        if queue is not None:
            pending.on_queue(queue)
        for kind, register in (("then", pending.then), ("catch", pending.catch), ("finally", pending.finally_)):
            for callback in callbacks.get(kind, ()):
                self._callbacks.append((kind, callback))
                register(self._callback.s(len(self._callbacks) - 1).set(queue=CALLBACKS))
        self._batches[name] = pending.dispatch().id

    def _members(self, jobs: Sequence[Tree]) -> list[Any]:
        return [
            self._member(tree) if isinstance(tree, str) else [self._member(label) for label in tree] for tree in jobs
        ]

    def _member(self, label: str) -> Any:
        return self._signature(label, queue=self.job(label).queue or ())

    def _signature(self, label: str, *, queue: Any = None, delay: float | None = None) -> Any:
        """A dispatch of a label; an empty ``queue`` leaves it to the batch."""
        definition = self.job(label)
        options: dict[str, Any] = {}
        if queue != ():
            options["queue"] = queue or definition.queue or "default"
        wait = definition.delay if delay is None else delay
        if wait:
            options["countdown"] = wait
        return self._task(label).si(label).set(**options)

    def _task(self, label: str) -> Any:
        return self.tasks[self.job(label).class_name]

    # -- batches and failed jobs

    def batch(self, name: str) -> Any:
        batch = self.bus.find_batch(self._batches[name])
        assert batch is not None, f"the batch {name} is gone"
        return batch

    def add_to_batch(self, name: str, jobs: Sequence[Tree]) -> None:
        self.batch(name).add(self._members(jobs))
        self.note("batch_added", batch=self.batch_shape(name))

    def cancel_batch(self, name: str) -> None:
        self.batch(name).cancel()

    def retry_batch(self, name: str) -> None:
        self.batch(name).retry()

    def batch_shape(self, name: str) -> dict[str, Any]:
        return shape_of(self.batch(name))

    def retry_failed(self, label: str | None) -> None:
        for record in self.bus.failed.all():
            if record.task not in self.tasks:  # a callback that failed: in Laravel no job, and no record
                self.bus.failed.forget(record.id)
        if label is None:
            self.bus.failed.retry("all")
            return
        for record in self._records():
            if self._label_of(record) == label:
                self.bus.failed.retry(record.id)

    def failed_jobs(self) -> list[dict[str, Any]]:
        oldest_first = reversed(self._records())
        return [{"job": self._label_of(record), "type": record.exception.partition(":")[0]} for record in oldest_first]

    def _records(self) -> list[Any]:
        """The records of jobs; a callback that fails leaves one too, which is none of the scenario's."""
        return [record for record in self.bus.failed.all() if record.task in self.tasks]

    def _label_of(self, record: Any) -> str:
        return str(signature_of(self.app, record).args[0])

    # -- work

    def set_worker(self, tries: int, backoff: float) -> None:
        defaults = defaults_of(self.app)
        defaults.tries, defaults.backoff = tries, backoff

    def work_one(self, queues: Sequence[str]) -> bool:
        self._take_in()
        message = self._queues.pop(queues, self.now)
        if message is None:
            return False
        self._deliver(message)
        return True

    def serve_callbacks(self) -> None:
        self._take_in()
        while (message := self._queues.pop([CALLBACKS], self.now)) is not None:
            self._deliver(message)
            self._take_in()

    def next_due(self, queues: Sequence[str]) -> float | None:
        self._take_in()
        return self._queues.next_due(queues)

    def queue_lengths(self, name: str) -> dict[str, int]:
        self._take_in()
        return self._queues.lengths(name, self.now)

    def _take_in(self) -> None:
        """Take what the broker has, as a worker does that keeps messages with an ETA until their time comes."""
        for queue in list(self._channel.queues):
            while (message := self._channel.basic_get(queue)) is not None:
                eta, task_id = message.headers["eta"], message.headers["id"]
                due = None if eta is None else datetime.fromisoformat(eta).timestamp() - self._start
                if due is None and task_id in self._released:
                    due = self.now  # in Laravel a release is always a delay
                self._released.discard(task_id)
                if due is None:
                    self._queues.push(queue, message)
                else:
                    self._queues.delay(queue, message, due)

    def _deliver(self, message: Any) -> None:
        """Run a message through Celery's own request and tracer, and acknowledge it as Celery's worker does."""
        task = self.app.tasks[message.headers["task"]]
        request = Request(message, app=self.app, task=task, hostname="parity", eventer=None)
        args, kwargs, embed = message.payload
        context = {**request.request_dict, **embed, "hostname": "parity", "is_eager": False}
        trace = build_tracer(task.name, task, app=self.app, loader=self.app.loader, hostname="parity")
        outcome = trace(request.id, args, kwargs, context)
        signal = outcome.info.retval if outcome.info is not None else None
        if isinstance(signal, Reject):
            message.reject(requeue=signal.requeue)
        else:
            message.ack()

    # -- what the library announces

    def _on_exception(self, sender: Any, exception: BaseException, **details: Any) -> None:
        self._announce("exception", sender, details, type=name_of(exception))

    def _on_failed(self, sender: Any, exception: BaseException, **details: Any) -> None:
        self._announce("failed", sender, details, type=name_of(exception))

    def _on_released(self, sender: Any, delay: float, **details: Any) -> None:
        self._released.add(details["task_id"])
        self._announce("released", sender, details, delay=delay)

    def _on_processed(self, sender: Any, **details: Any) -> None:
        self._announce("processed", sender, details)

    def _announce(self, event: str, task: Any, details: Mapping[str, Any], **more: Any) -> None:
        if task.app is self.app and task.name in self.tasks:
            self.note(event, job=details["args"][0], **more)


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)
