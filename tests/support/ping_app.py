"""A small app to try workers with; `BROKER_URL` and `RESULT_BACKEND` of the environment say where."""

from __future__ import annotations

import json
import os

from celery import Celery

app = Celery("ping", broker=os.environ["BROKER_URL"], backend=os.environ["RESULT_BACKEND"])
app.conf.broker_connection_retry_on_startup = True
app.conf.broker_transport_options = json.loads(os.environ.get("BROKER_OPTIONS", "{}"))


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def pid() -> int:
    """Which process of the pool worked."""
    return os.getpid()
