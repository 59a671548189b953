"""The app of `jobs_app` with jobs under a limit, which writes down what its store answers, for real workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_laravel import Limit, RateLimited, RateLimiter
from celery_laravel.stores.factory import store_of
from tests.support import jobs_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

ALLOWED = 10
SECONDS = 0.5

NOW = "local now = redis.call('TIME') return tostring(now[1] + now[2] / 1000000)"


def declare(app: Celery) -> None:
    """Add the job ``limited`` to an app that `jobs_app.make_app` made.

    It is given the key under which everything is written down, and how it ends.
    Its limiter has windows of `SECONDS` with `ALLOWED` starts.
    """
    record = app.record
    read_clock = record.client.register_script(NOW)
    before: dict[str, float] = {}

    def server_time() -> float:
        return float(read_clock())

    def arrive(job: Any, go_on: Callable[[Any], Any]) -> Any:
        before[job.request.id] = server_time()
        return go_on(job)

    def limited(self: Any, key: str, how: str = "") -> str:
        record.add(key, "starts", {"id": self.request.id, "at": server_time()})
        if how == "wait":
            record.client.blpop([f"record:{key}:go"], timeout=60)
        return "done"

    _write_down_answers(app, before)
    RateLimiter.define("lab", lambda job: Limit.per(SECONDS, ALLOWED).by(job.arguments["key"]))
    app.task(limited, name="limited", bind=True, shared=False, tries=0, middleware=[arrive, RateLimited("lab")])


def _write_down_answers(app: Celery, before: dict[str, float]) -> None:
    limits: Any = store_of(app).limits
    take = limits.take

    def noted(name: str, windows: Any, *, caller: str, is_overdue: bool) -> Any:
        answer = take(name, windows, caller=caller, is_overdue=is_overdue)
        key = windows[0].key.partition(":")[2]
        window = answer.slots[0].window_start
        app.record.add(
            key,
            "answers",
            {"id": caller, "granted": answer.granted, "window": window, "asked_at": before[caller]},
        )
        return answer

    limits.take = noted


if hasattr(jobs_app, "app"):
    app = jobs_app.app
    declare(app)
