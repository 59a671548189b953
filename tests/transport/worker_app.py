"""The app of the workers in these tests; the environment says where its broker and its record are.

With ``TRANSPORT=safe`` the library is installed in it, as a Redis broker that loses nothing needs.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from celery import Celery, Task

from celery_laravel import install  # which makes the database broker known

app = Celery("worker_app", broker=os.environ["BROKER_URL"], set_as_current=False)
app.conf.update(
    broker_transport_options=json.loads(os.environ.get("BROKER_OPTIONS", "{}")),
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    task_acks_late=os.environ.get("ACKS_LATE") == "1",
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=int(os.environ.get("PREFETCH", "4")),
)
if os.environ.get("TRANSPORT") == "safe":
    install(app)


def record(*words: object) -> None:
    """Append a line; short appends of several processes do not mix."""
    line = " ".join(map(str, words)) + "\n"
    descriptor = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@app.task(bind=True)
def note(self: Task, name: object) -> None:
    record(name, self.request.hostname)


@app.task(bind=True, acks_late=True)
def block(self: Task, name: str) -> None:
    """Note the start, and run until the file ``name`` is there, beside the record."""
    record(
        "start",
        name,
        (self.request.headers or {}).get("x-delivery-count", 0),
        self.request.delivery_info["redelivered"],
    )
    wait_for(name)
    record("end", name)


@app.task(acks_late=False)
def hold(name: str) -> None:
    """As `block`, acknowledged before it starts."""
    record("start", name)
    wait_for(name)
    record("end", name)


def wait_for(name: str) -> None:
    path = Path(os.environ["RECORD"]).with_name(name)
    while not path.exists():
        time.sleep(0.01)


@app.task
def hand_on(left: int) -> None:
    """Publish the next link of a chain from within the pool."""
    record("link", left)
    if left:
        hand_on.delay(left - 1)


@app.task(bind=True, acks_late=True)
def note_late(self: Task, name: object) -> None:
    """As `note`, acknowledged when it has ended."""
    record(name, self.request.hostname)
