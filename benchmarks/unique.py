"""Unique dispatches a second, against celery-singleton: those that are sent, and those that are suppressed."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

from benchmarks import NotMeasuredError
from benchmarks.measuring import alternate, private_redis, run_python

JOBS = 3000
SHORT_JOBS = 500

_OURS = """
from celery import Celery
from celery_laravel import install
app = Celery("shop", broker="{url}")
app.conf.task_ignore_result = True
install(app)

@app.task(unique=True, unique_id="number")
def rebuild(number): ...
"""

_THEIRS = """
from celery import Celery
from celery_singleton import Singleton
app = Celery("shop", broker="{url}")
app.conf.task_ignore_result = True
app.conf.singleton_backend_url = "{url}"

@app.task(base=Singleton, unique_on=["number"])
def rebuild(number): ...
"""

_DISPATCH = """
import json, time
rebuild.apply_async((0,))
with app.producer_or_acquire() as producer:
    for number in range(200):
        rebuild.apply_async((-number,), producer=producer)
    start = time.perf_counter()
    for number in range({jobs}):
        rebuild.apply_async(({number} + 1,), producer=producer)
    seconds = time.perf_counter() - start
print(json.dumps({jobs} / seconds))
"""

_PUBLISHING = "The store is the broker's Redis, so Celery makes one message a second, and the store pushes the others."

_ROWS = [
    ("unique dispatch, suppressed", "-2", ""),
    ("unique dispatch, each of another key", "number", _PUBLISHING),
]


def run(rounds: int = 5, *, short: bool = False) -> list[dict[str, Any]]:
    """Measure the rows, each value in a process and on a Redis of its own; ours over theirs."""
    if find_spec("celery_singleton") is None:
        raise NotMeasuredError("celery-singleton is not installed: pip install celery-singleton==0.3.1")
    jobs = SHORT_JOBS if short else JOBS
    results = []
    for name, number, note in _ROWS:
        ours, theirs, ratio = alternate(
            rounds,
            partial(_dispatches_per_second, _OURS, jobs, number),
            partial(_dispatches_per_second, _THEIRS, jobs, number),
        )
        row = {"name": name, "ours": ours, "theirs": theirs, "ratio": ratio, "reach": "≥ 2", "unit": "jobs/s"}
        results.append({**row, "note": note})
    return results


def _dispatches_per_second(app: str, jobs: int, number: str) -> float:
    with private_redis() as url:
        return float(run_python(app.format(url=url) + _DISPATCH.format(jobs=jobs, number=number), {}))
