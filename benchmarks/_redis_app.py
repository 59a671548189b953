"""The app that the Redis brokers are measured with: plain tasks; `BENCH_SAFE` says whose transport is below them."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

from celery_laravel.transport.selection import choose_connections

BROKER = os.environ["BENCH_BROKER"]

app = Celery("bench", broker=BROKER, set_as_current=False)
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=16, worker_hijack_root_logger=False)
if os.environ["BENCH_SAFE"] == "1":
    choose_connections(app)


@app.task
def noop() -> None:
    """Do nothing."""


@app.task(acks_late=True)
def noop_late() -> None:
    """Do nothing, and be acknowledged late."""


@app.task
def mark(key: str, since: float = 0.0) -> None:
    """Write down how many seconds after ``since`` this ran."""
    with redis.Redis.from_url(BROKER) as client:
        client.rpush(key, repr(time.time() - since))
