"""A broker, a store and workers, for many runs of scenarios; and what the jobs have written down beside them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import redis

from celery_laravel import Bus
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.factory import forget_stores
from celery_laravel.testing.processes import wait_until
from tests.chaos.app import declare
from tests.chaos.plan import Plan
from tests.support.jobs_app import make_app
from tests.support.worker import RunningWorker, running_worker

APP = "tests.chaos.app"
LEASE = 4.0
"""Seconds, instead of a minute, after which a worker that was killed as a whole is taken for dead."""
VISIBILITY = 3.0
"""Seconds after which a broker that goes by the clock delivers again what a dead worker held."""


class Stage:
    """One combination of a broker and a store, with an app of its own on it; `close` ends its workers."""

    def __init__(self, places: dict[str, str], conf: dict[str, Any] | None = None) -> None:
        self.places, self.conf = places, conf or {}
        self.app = make_app(**places, **self.conf)
        self.app.backend.on_task_call = _ignore  # or it would subscribe to each result, and be at a loss at the end
        self.record = self.app.record
        self.plan = Plan(self.record.client, places["queue"])
        declare(self.app, self.plan)
        self.bus = Bus(self.app)
        self.workers: list[RunningWorker] = []
        self._closing = ExitStack()
        self._closing.callback(self.app.close)
        self._closing.callback(forget_stores, self.app)
        self._closing.callback(self.record.client.close)

    @property
    def store(self) -> Any:
        return runtime_of(self.app).store

    def start(self, count: int = 1, *args: str, **options: Any) -> list[RunningWorker]:
        """Start as many workers as are missing to ``count``, and start those again that were killed."""
        for worker in self.workers:
            if not worker.is_running:
                worker.kill()  # what its main process may have left behind
                worker.restart(60)
        while len(self.workers) < count:
            self.workers.append(self._closing.enter_context(self._worker(*args, **options)))
        return self.workers

    def kill(self) -> None:
        """Kill all workers, each with all its processes at once."""
        for worker in self.workers:
            worker.kill()

    def sig(self, task: str, *args: Any) -> Any:
        """An immutable signature."""
        return self.app.tasks[task].si(*args)

    def written(self, key: str, kind: str) -> list[Any]:
        """What jobs wrote down, in order, in the tests' own Redis."""
        return list(self.record.all(key, kind))

    def wait_until_quiet(self, timeout: float = 60) -> None:
        """Wait until nothing is on its way: no message waits or is held, and no callback is owed."""
        wait_until(self.is_quiet, timeout, message="all messages to be dealt with", interval=0.1)

    def messages(self) -> int:
        """The messages in the stage's queue, those that workers hold among them as far as the broker tells."""
        queue = self.places["queue"]
        if self.places["broker"].startswith("redis"):
            prefix = f"{queue}:"
            with redis.Redis.from_url(self.places["broker"]) as client:
                return int(client.llen(prefix + queue) + client.hlen(f"{prefix}unacked"))
        with self.app.connection_for_read() as connection:
            channel = connection.default_channel
            ready = int(channel.queue_declare(queue, passive=True).message_count)
            return ready + (channel.messages.count_hidden(queue) if hasattr(channel, "messages") else 0)

    def close(self) -> None:
        self._closing.close()

    def _worker(self, *args: str, concurrency: int = 2, env: dict[str, str] | None = None, **options: Any) -> Any:
        settings = {f"JOBS_{name.upper()}": value for name, value in self.places.items()}
        settings |= {"JOBS_CONF": json.dumps(self.conf), "JOBS_LEASE": str(LEASE), "C_FORCE_ROOT": "1", **(env or {})}
        quick = ("--without-mingle", "--without-gossip")
        args = ("-Q", self.places["queue"], *quick, *args)
        return running_worker(APP, args=args, env=settings, concurrency=concurrency, **options)

    def is_quiet(self) -> bool:
        """Whether no message waits or is held, and no callback is owed."""
        if self.messages() or self.store.batches.due(older_than=timedelta(0)):
            return False
        names = [worker.name for worker in self.workers if worker.is_running]
        if self.places["broker"].startswith("redis"):
            return True
        with self.app.connection_for_write() as connection:  # not a pooled one, which the server may have left
            inspect = self.app.control.inspect(names, timeout=5, limit=len(names), connection=connection)
            states = [getattr(inspect, state)() for state in ("active", "reserved", "scheduled")]
        return all(set(state or ()) == set(names) and not any((state or {}).values()) for state in states)


def _ignore(*_: Any) -> None:
    pass
