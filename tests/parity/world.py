"""The library itself as a player: a Celery app, a broker in memory, and a worker whose loop is turned by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from celery import _state
from celery.app.trace import build_tracer
from celery.exceptions import Reject, SoftTimeLimitExceeded

from celery_laravel import Bus, clock
from celery_laravel.dispatch.failed_jobs import signature_of
from celery_laravel.message.header import read_header
from celery_laravel.runtime import runtime_of
from celery_laravel.worker.defaults import defaults_of, timeout_of
from celery_laravel.worker.request import JobRequest
from tests.parity.announcements import Announcements, whole_tenths
from tests.parity.holders import Holders
from tests.parity.queues import Queues
from tests.parity.running import shape_of
from tests.parity.scenario import Callback, Scenario, Tree
from tests.parity.virtual_app import virtual_app

CALLBACKS = "callbacks"
"""The queue of callbacks, which has a worker of its own that is always at hand."""

CAPABILITIES = frozenset(
    {"a chain's catch", "RateLimited", "ThrottlesExceptions", "WithoutOverlapping", "unique jobs"}
    | {"a worker that crashes", "a worker that pauses", "a worker in real time"}
)
"""What `Scenario.needs` may name and this player can do."""


class World(Announcements, Holders):
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
        self.define_limiters(monkeypatch)
        self.tasks = {name: self.make_task(name) for name in {job.class_name for job in scenario.jobs.values()}}
        # In Laravel a callback is called once, whatever the worker's tries; here they would hold for the job it is.
        once: dict[str, Any] = {"shared": False, "typing": False, "tries": 1}
        self._callback = self.app.task(name="parity-callback", **once)(self._run_callback)
        self._chain_callback = self.app.task(name="parity-chain-callback", **once)(self._run_chain_callback)
        self.app.finalize()
        self._callbacks: list[tuple[str, Callback]] = []
        self._queues: Queues[Any] = Queues()
        self._delivered: list[Any] = []
        self._batches: dict[str, str] = {}
        self._channel = self.app.connection_for_read().channel()
        self.listen()

    def close(self) -> None:
        """Leave nothing behind in this process."""
        self.listen_no_more()
        for message in self._queues.all():
            message.ack()
        self._channel.connection.client.release()
        runtime_of(self.app).forget()
        self.app.close()
        _state._set_current_app(self._previous_app)

    # -- tasks

    def _run_callback(self, batch: Any, *arguments: Any) -> None:
        *error, number = arguments
        kind, callback = self._callbacks[number]
        name = next(name for name, batch_id in self._batches.items() if batch_id == batch.id)
        self.callback(kind, callback, error[0] if error else None, name)

    def _run_chain_callback(self, error: BaseException, number: int) -> None:
        kind, callback = self._callbacks[number]
        self.callback(kind, callback, error, None)

    # -- dispatch

    def dispatch(self, label: str, *, delay: float | None = None, queue: str | None = None) -> None:
        self._signature(label, queue=queue, delay=delay).apply_async()

    def dispatch_sync(self, label: str) -> None:
        self._task(label).dispatch_sync(label)

    def dispatch_chain(self, labels: Sequence[str], catch: Sequence[Callback], delay: float, queue: str | None) -> None:
        signatures = [self._signature(label, queue=self.job(label).queue or queue) for label in labels]
        if delay:
            signatures[0].set(countdown=delay)
        pending = self.bus.chain(signatures)
        for callback in catch:
            self._callbacks.append(("chain.catch", callback))
            pending.catch(self._chain_callback.s(len(self._callbacks) - 1).set(queue=CALLBACKS))
        pending.dispatch()

    def dispatch_batch(
        self,
        name: str,
        jobs: Sequence[Tree],
        callbacks: Mapping[str, Sequence[Callback]],
        *,
        allow_failures: bool,
        queue: str | None,
    ) -> None:
        pending = self.bus.batch(self.members(jobs)).allow_failures(allow_failures)
        if queue is not None:
            pending.on_queue(queue)
        for kind, register in (("then", pending.then), ("catch", pending.catch), ("finally", pending.finally_)):
            for callback in callbacks.get(kind, ()):
                self._callbacks.append((kind, callback))
                register(self._callback.s(len(self._callbacks) - 1).set(queue=CALLBACKS))
        self._batches[name] = pending.dispatch().id

    def members(self, jobs: Sequence[Tree]) -> list[Any]:
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
        self.batch(name).add(self.members(jobs))
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
        return str(signature_of(self.app, record.payload).args[0])

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
                due = None if eta is None else whole_tenths(datetime.fromisoformat(eta).timestamp() - self._start)
                if due is None and task_id in self.released:
                    due = self.now  # in Laravel a release is always a delay
                self.released.discard(task_id)
                if due is None:
                    self._queues.push(queue, message)
                else:
                    self._queues.delay(queue, message, due)

    def _deliver(self, message: Any) -> None:
        """Run a message through Celery's own request and tracer, and acknowledge it as Celery's worker does."""
        if any(message is other for other in self._delivered):
            message.delivery_info = {**message.delivery_info, "redelivered": True}
        self._delivered.append(message)
        self.dead.discard(message.headers["id"])
        task = self.app.tasks[message.headers["task"]]
        request = JobRequest(message, app=self.app, task=task, hostname="parity", eventer=None)
        args, kwargs, embed = message.payload
        context = {**request.request_dict, **embed, "hostname": "parity", "is_eager": False}
        trace = build_tracer(task.name, task, app=self.app, loader=self.app.loader, hostname="parity")
        is_late = task.acks_late or _is_followed(message)
        if not is_late:
            self._acknowledge(message)
        outcome = trace(request.id, args, kwargs, context)
        signal = outcome.info.retval if outcome.info is not None else None
        if isinstance(signal, Reject):
            message.reject(requeue=signal.requeue)
            self._queues.done(message)
        elif is_late:
            self._acknowledge(message)

    def _acknowledge(self, message: Any) -> None:
        if not message.acknowledged:  # of two deliveries of one message, which a broker tells apart
            message.ack()
        self._queues.done(message)

    # -- workers that stand still or vanish, and the locks that they hold

    def enter_thread(self) -> None:
        _state._set_current_app(self.app)

    def pick_up_and_crash(self, queues: Sequence[str]) -> None:
        self.is_to_crash = True
        self.work_one(queues)
        self.is_to_crash = False

    def sleep(self, label: str, seconds: float) -> None:
        """Play the alarm of Celery's pool, which is set for the job's timeout; no real time passes."""
        limit = timeout_of(self._task(label).job_options, defaults_of(self.app))
        if limit is not None and limit < seconds:
            raise SoftTimeLimitExceeded


def _is_followed(message: Any) -> bool:
    """Whether a worker acknowledges a message late for what it belongs to, whatever its task declares."""
    header = read_header(message.headers)
    return header.is_followed or header.callback is not None
