"""The app of the chaos suite's workers: jobs that write down what they do, and come to points where they may be killed.

On top of the scripted jobs of `tests.support.jobs_app`, whose environment says
where everything is. What the jobs write goes to a Redis of the tests' own, by
plain commands.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from celery_laravel import Limit, RateLimited, RateLimiter, WithoutOverlapping, signals
from celery_laravel.bootsteps import due_callbacks
from celery_laravel.dispatch import unique as unique_dispatch
from celery_laravel.testing.faults import put_points
from celery_laravel.worker import starting
from tests.chaos.plan import Plan
from tests.support import jobs_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

MEMBERS: dict[str, dict[str, Any]] = {"member": {}, "member1": {"tries": 1}, "member3": {"tries": 3}}
"""Jobs by how often they may be started."""

WINDOW, PER_WINDOW = 0.5, 10
"""Seconds of a window of the limiter ``chaos``, and starts in one."""


def declare(app: Celery, plan: Plan) -> None:
    """Add the suite's jobs to an app that `jobs_app.make_app` made."""
    for name, options in MEMBERS.items():
        app.task(_member(app, plan), name=name, bind=True, shared=False, failed=_failed(app), **options)

    @app.task(name="callback", shared=False, bind=True)
    def callback(self: Any, *args: Any) -> None:
        """Write down that it was called: (…, kind, key)."""
        *_, kind, key = args
        app.record.add(key, "called", {"kind": kind, "id": self.request.id, "pid": os.getpid()})
        plan.reach(f"callback:{kind}:{self.request.id}")

    _declare_locked(app)
    _declare_limited(app)
    _declare_sour(app, plan)


def _member(app: Celery, plan: Plan) -> Callable[..., Any]:
    def member(self: Any, key: str, name: str, what: str = "return", seconds: float = 0.0) -> str:
        """Write down that it runs, come to the points around its code, and end as it is told."""
        app.record.add(key, "started", {"name": name, "id": self.request.id, "pid": os.getpid()})
        plan.reach(f"code:{name}")
        time.sleep(seconds)
        if what == "raise":
            raise OSError(name)
        app.record.add(key, "done", {"name": name, "id": self.request.id, "pid": os.getpid()})
        plan.reach(f"done:{name}")
        return name

    return member


def _failed(app: Celery) -> Callable[..., None]:
    def failed(job: Any, exc: BaseException, key: str, name: str, *args: Any) -> None:
        app.record.add(key, "failed", {"name": name, "id": job.request.id, "pid": os.getpid(), "error": repr(exc)})

    return failed


def _declare_limited(app: Celery) -> None:
    def server_time() -> float:
        seconds, micros = app.record.client.time()  # the clock that a limiter in Redis goes by
        return float(seconds) + float(micros) / 1e6

    asked: dict[str, float] = {}

    def arrive(job: Any, go_on: Callable[[Any], Any]) -> Any:
        asked[job.request.id] = server_time()
        return go_on(job)

    def limited(self: Any, key: str, name: str) -> None:
        """Write down between which instants it was granted its start."""
        app.record.add(key, "starts", [name, asked[self.request.id], server_time()])

    RateLimiter.define("chaos", lambda job: Limit.per(WINDOW, PER_WINDOW).by(job.arguments["key"]))
    app.task(limited, name="limited", bind=True, shared=False, tries=0, middleware=[arrive, RateLimited("chaos")])


def _declare_locked(app: Celery) -> None:
    def interval(self: Any, key: str, name: str, seconds: float = 0.05) -> None:
        """Write down when it began and when it ended, by the order of one list."""
        app.record.add(key, "edges", ["begin", self.request.id, os.getpid()])
        time.sleep(seconds)
        app.record.add(key, "edges", ["end", self.request.id, os.getpid()])

    layer = WithoutOverlapping(by="key", release_after=0.2)
    app.task(interval, name="overlap", bind=True, shared=False, tries=0, middleware=[layer])
    app.task(interval, name="once", bind=True, shared=False, unique=True, unique_id="key")

    def patient(self: Any, key: str, name: str) -> None:
        """Write down as which attempt it runs, under a lock for which waiting costs none."""
        app.record.add(key, "attempts", [name, self.attempts])
        interval(self, key, name)

    layer = WithoutOverlapping(by="key", release_after=0.2, count_attempt=False)
    app.task(patient, name="patient", bind=True, shared=False, tries=1, middleware=[layer])
    app.task(
        patient, name="loose", bind=True, shared=False, middleware=[layer]
    )  # the store is first asked for its lock

    @app.task(name="dispatch_once", shared=False, acks_late=False)
    def dispatch_once(key: str, name: str) -> None:
        """Dispatch a unique job from within a worker, where points are come to on the way."""
        result = app.tasks["once"].delay(key, name)
        app.record.add(key, "dispatched", [name, result.id, result.suppressed])


def _declare_sour(app: Celery, plan: Plan) -> None:
    def failed(job: Any, exc: BaseException, key: str, name: str, *args: Any) -> None:
        app.record.add(key, "failed", {"name": name, "id": job.request.id, "pid": os.getpid(), "error": repr(exc)})
        raise RuntimeError("a hook that raises")

    app.task(_member(app, plan), name="sour", bind=True, shared=False, tries=2, failed=failed)

    @app.task(name="sour_callback", shared=False, bind=True)
    def sour_callback(self: Any, *args: Any) -> None:
        """Write down that it was called, and raise: (…, kind, key)."""
        *_, kind, key = args
        app.record.add(key, "called", {"kind": kind, "id": self.request.id, "pid": os.getpid()})
        raise RuntimeError("a callback that raises")


def raise_in_receivers() -> None:
    """Let a receiver of every signal of the library's raise."""

    def receive(**_: Any) -> None:
        raise RuntimeError("a receiver that raises")

    for name in signals.__all__:
        getattr(signals, name).connect(receive, weak=False)


def hasten() -> None:
    """Let what waits by the clock wait for moments; leases come from ``JOBS_LEASE``."""
    due_callbacks.OVERDUE, due_callbacks.INTERVAL = due_callbacks.OVERDUE * 0.1, 0.5
    starting._FIRST_LOOK, starting._LONGEST_WAIT = 0.5, 2.0
    unique_dispatch.PENDING = unique_dispatch.PENDING / 20


if hasattr(jobs_app, "app"):
    app = jobs_app.app
    hasten()
    plan = Plan(app.record.client, app.conf.task_default_queue)
    declare(app, plan)
    put_points(app, plan.reach)
    if os.environ.get("CHAOS_RAISES"):
        raise_in_receivers()
