"""The app of `jobs_app` with jobs that hold locks, for real workers."""

from __future__ import annotations

import ctypes
import os
import time
from typing import TYPE_CHECKING, Any

from celery_laravel import WithoutOverlapping
from celery_laravel.attempt.running_job import running_of
from tests.support import jobs_app

if TYPE_CHECKING:
    from celery import Celery


def declare(app: Celery) -> None:
    """Add the jobs that hold locks to an app that `jobs_app.make_app` made.

    Each says where it stands in one list of Redis, ``record:LOCK:beats``, so
    that all of them are in one order.
    """
    record = app.record

    def guarded(self: Any, lock: str, how: str, seconds: float = 0.0) -> str:
        """Hold the lock for so long: beating, or blocked with the interpreter's lock held, or until told to go on."""
        owner = running_of(self).owner
        record.add(lock, "runs", {"id": self.request.id, "owner": owner, "pid": os.getpid(), "attempt": self.attempts})
        record.add(lock, "beats", owner)
        if how == "beat":
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                record.add(lock, "beats", owner)
        elif how == "block":
            ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))  # PyDLL, other than CDLL, lets no thread run meanwhile
        elif how == "die":
            os.kill(os.getpid(), 9)
        elif how == "wait":
            end = time.monotonic() + seconds
            while time.monotonic() < end and not record.client.blpop([f"record:{self.request.id}:go"], timeout=1):
                pass
        record.add(lock, "beats", owner)
        return "done"

    layers = {
        "guarded": WithoutOverlapping(by="lock", release_after=0.2, shared=True),
        "guarded_hard": WithoutOverlapping(by="lock", release_after=0.2, expire_after=60, shared=True),
    }
    for name, layer in layers.items():
        app.task(guarded, name=name, bind=True, shared=False, tries=0, middleware=[layer])
    once = [WithoutOverlapping(by="lock", shared=True)]
    app.task(guarded, name="guarded_once", bind=True, shared=False, middleware=once)


if hasattr(jobs_app, "app"):
    app = jobs_app.app
    declare(app)
