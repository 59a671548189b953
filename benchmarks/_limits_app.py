"""The app whose jobs keep to a limit: by this library, by the release that Laravel does, or not at all."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import redis
from celery import Celery

if TYPE_CHECKING:
    from collections.abc import Callable

BROKER = os.environ["BENCH_BROKER"]
WITH_LIBRARY = os.environ["BENCH_LIBRARY"] == "1"
PER_SECOND = int(os.environ.get("BENCH_PER_SECOND", "50"))

PADDING = 3
"""Seconds that Laravel adds to the end of the window, when it puts a job back."""

app = Celery("limits", broker=BROKER)
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 64
app.conf.worker_hijack_root_logger = False

client = redis.Redis.from_url(BROKER, decode_responses=True)

note_the_time = client.register_script(
    "local now = redis.call('TIME') return redis.call('RPUSH', KEYS[1], now[1] + now[2] / 1000000)"
)
hit_fixed_window = client.register_script(
    "local hits = redis.call('INCR', KEYS[1]) if hits == 1 then redis.call('PEXPIRE', KEYS[1], 1000) end "
    "return {hits, redis.call('PTTL', KEYS[1])}"
)


def delivered(job: Any, go_on: Callable[[Any], Any]) -> Any:
    """Note the time of each delivery, by the server's clock."""
    note_the_time(keys=["deliveries"])
    return go_on(job)


def note_windows(take: Callable[..., Any]) -> Callable[..., Any]:
    """A store's `take` that notes in which window each start was granted."""

    def noted(*args: Any, **options: Any) -> Any:
        answer = take(*args, **options)
        if answer.granted:
            client.rpush("windows", repr(answer.slots[0].window_start))
        return answer

    return noted


def laravels_release(job: Any, go_on: Callable[[Any], Any]) -> Any:
    """Put a job for which there is no room back until the window ends, and three seconds more, like all the others."""
    hits, left = hit_fixed_window(keys=["window"])
    if hits <= PER_SECOND:
        return go_on(job)
    return job.release(left / 1000 + PADDING)


options: dict[str, dict[str, Any]] = {"ours": {}, "naive": {}, "guarded": {}}
if WITH_LIBRARY:
    from celery_laravel import Limit, RateLimited, RateLimiter, WithoutOverlapping, install
    from celery_laravel.stores.factory import store_of

    app.conf.laravel_store = os.environ.get("BENCH_STORE", BROKER)
    install(app)
    if os.environ.get("BENCH_NOTE_WINDOWS"):
        limits: Any = store_of(app).limits
        limits.take = note_windows(limits.take)
    RateLimiter.define("bench", Limit.per_second(PER_SECOND))
    RateLimiter.define("wide", Limit.per_minute(10**9))
    options = {
        "ours": {"middleware": [delivered, RateLimited("bench")]},
        "naive": {"middleware": [delivered, laravels_release]},
        "guarded": {"middleware": [RateLimited("wide"), WithoutOverlapping(by="number")]},
    }


def start(number: int) -> None:  # noqa: ARG001  jobs have arguments
    """Note when the job's code started."""
    note_the_time(keys=["starts"])


ours = app.task(start, name="ours", **options["ours"])
naive = app.task(start, name="naive", **options["naive"])


@app.task(**options["guarded"])
def guarded(number: int) -> None:
    """Do nothing."""


@app.task
def mark(key: str) -> None:
    """Write down when this ran, for the clock of the benchmark."""
    client.rpush(key, repr(time.time()))
