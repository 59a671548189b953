"""The app with one job for each feature that asks the store, as a user would write them."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery

from celery_laravel import (
    Limit,
    RateLimited,
    RateLimiter,
    SkipIfBatchCancelled,
    ThrottlesExceptions,
    WithoutOverlapping,
    install,
)

BROKER = os.environ["BENCH_BROKER"]

app = Celery("features", broker=BROKER)
app.conf.task_ignore_result = True
app.conf.worker_hijack_root_logger = False
app.conf.laravel_store = os.environ["BENCH_STORE"]
install(app)

RateLimiter.define("wide", Limit.per_minute(10**9))
RateLimiter.define("two", lambda job: [Limit.per_minute(10**9), Limit.per_hour(10**9).by(job.arguments["number"])])

client = redis.Redis.from_url(BROKER)

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tries_early": {"tries": 3, "acks_late": False},
    "tries": {"tries": 3},
    "batch": {},
    "skip_if_cancelled": {"middleware": [SkipIfBatchCancelled()]},
    "limited": {"middleware": [RateLimited("wide")]},
    "limited_twice": {"middleware": [RateLimited("two")]},
    "overlap": {"middleware": [WithoutOverlapping(by="number")]},
    "throttled": {"middleware": [ThrottlesExceptions()]},
    "unique": {"unique": True, "unique_id": "number"},
    "unique_for": {"unique": True, "unique_id": "number", "unique_for": 3600},
    "until_processing": {"unique": "until_processing", "unique_id": "number"},
    "latest": {"unique": "latest", "unique_id": "number"},
    "debounced": {"debounce_for": 0.1, "unique_id": "number"},
}


def work(number: int) -> None:  # noqa: ARG001  it is part of keys
    """Say that the job has run."""
    client.incr("ran")


for name, options in FEATURES.items():
    app.task(name=name, **options)(work)
