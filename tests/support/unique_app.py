"""The app of `jobs_app` with unique and debounced jobs, for real workers; leases last for three seconds.

``UNIQUE_DIES_AT`` in the environment kills the process at a point that it would
hardly ever be killed at otherwise: ``publish`` (the lock is taken, the message
is not out) or ``release`` (the code has run, the lock is not free yet), there
for the first time only.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery_laravel.attempt import leases
from celery_laravel.dispatch import unique
from celery_laravel.stores.factory import store_of
from tests.support import jobs_app

if TYPE_CHECKING:
    from celery import Celery

LEASE = 3.0


def declare(app: Celery) -> None:
    """Add unique and debounced jobs to an app that `jobs_app.make_app` made."""
    record = app.record

    def once(self: Any, key: str, value: Any = None, how: str = "") -> Any:
        """Write down the beginning and the end of the run; wait in between if asked to."""
        record.add(key, "runs", {"id": self.request.id, "value": value, "attempt": self.attempts, "pid": os.getpid()})
        record.add(key, "edges", ["begin", self.request.id])
        if how == "wait":
            end = time.monotonic() + 30
            while time.monotonic() < end and not record.client.blpop([f"record:{key}:go"], timeout=1):
                pass
        elif how == "raise":
            raise OSError(value)
        elif how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        record.add(key, "edges", ["end", self.request.id])
        return value

    kinds: dict[str, dict[str, Any]] = {
        "once": {"unique": True},
        "once_early": {"unique": True, "acks_late": False},
        "until_begun": {"unique": "until_processing"},
        "latest": {"unique": "latest"},
        "debounced": {"debounce_for": 0.5},
    }
    for name, options in kinds.items():
        app.task(once, name=name, bind=True, shared=False, unique_id="key", **options)

    @app.task(name="listed", shared=False)
    def listed(*values: Any) -> list[Any]:
        return list(values)


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at(app: Celery, point: str) -> None:
    if point == "publish":
        app.amqp.send_task_message = _die
        return
    locks: Any = store_of(app).locks
    release_soon = locks.release_soon

    def release(keys: Any, *, owner: str) -> None:
        if app.record.add(app.main, "deaths", 1) == 1:
            _die()
        release_soon(keys, owner=owner)

    locks.release_soon = release


if hasattr(jobs_app, "app"):
    app = jobs_app.app
    declare(app)
    leases.LEASE, leases.INTERVAL = timedelta(seconds=LEASE), 0.5
    unique.PENDING = timedelta(seconds=LEASE)
    if point := os.environ.get("UNIQUE_DIES_AT"):
        _die_at(app, point)
    if __name__ == "__main__":
        app.tasks[sys.argv[1]].delay(sys.argv[2])
