"""The app that is measured, as a user would write it; the environment says with or without the library."""

from __future__ import annotations

import os
import time

from celery import Celery

BROKER = os.environ["BENCH_BROKER"]
WITH_LIBRARY = os.environ["BENCH_LIBRARY"] == "1"

app = Celery("shop", broker=BROKER, backend=os.environ.get("BENCH_RESULTS"))
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 64
app.conf.worker_hijack_root_logger = False

if WITH_LIBRARY:
    from celery_laravel import install

    app.conf.laravel_store = os.environ.get("BENCH_STORE", BROKER)
    install(app)
    tries = {"tries": 3, "backoff": [1, 5, 10], "max_exceptions": 2}
else:
    tries = {}


@app.task
def noop() -> None:
    """Do nothing."""


@app.task(acks_late=False, **tries)
def noop_early() -> None:
    """Do nothing, and be acknowledged early."""


@app.task(acks_late=True, reject_on_worker_lost=True, **tries)
def noop_late() -> None:
    """Do nothing, and be acknowledged late."""


@app.task
def numbered(number: int) -> None:
    """Do nothing, with an argument."""


@app.task(ignore_result=False)
def kept(number: int) -> None:
    """Do nothing, with a result that is kept, as a chord's header needs."""


@app.task
def mark(key: str) -> None:
    """Write down when this ran, for the clock of the benchmark."""
    import redis

    with redis.Redis.from_url(BROKER) as client:
        client.rpush(key, repr(time.time()))
