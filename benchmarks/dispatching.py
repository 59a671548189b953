"""Dispatches a second of a single job, and what importing the library costs."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.measuring import alternate, private_redis, run_python

JOBS = 3000
SHORT_JOBS = 500

_DISPATCH = """
import json, time
from benchmarks._shop import app, noop, noop_late
task = {task}
with app.producer_or_acquire() as producer:
    for _ in range(200):
        task.apply_async(producer=producer)
    start = time.perf_counter()
    for _ in range({jobs}):
        task.apply_async(producer=producer)
print(json.dumps({jobs} / (time.perf_counter() - start)))
"""

_IMPORT = """
import json, time
start = time.perf_counter()
import {module}
{touch}
print(json.dumps(time.perf_counter() - start))
"""


def run(rounds: int = 5, *, short: bool = False) -> list[dict[str, Any]]:
    """Measure the rows, each value in a process of its own."""
    jobs = SHORT_JOBS if short else JOBS
    results = []
    with private_redis() as url:
        for name, task, reach in [
            ("plain task through Job: dispatch", "noop", 0.98),
            ("job with tries, backoff, max_exceptions: dispatch", "noop_late", 0.97),
        ]:
            ours, theirs, ratio = alternate(
                rounds,
                partial(_dispatches_per_second, url, task, jobs, with_library=True),
                partial(_dispatches_per_second, url, task, jobs, with_library=False),
            )
            results.append(
                {"name": name, "ours": ours, "theirs": theirs, "ratio": ratio, "reach": f"≥ {reach}", "unit": "jobs/s"}
            )
    ours, theirs, ratio = alternate(max(rounds, 5), _import_seconds("celery_laravel"), _import_seconds("celery"))
    results.append(
        {"name": "import time", "ours": ours, "theirs": theirs, "ratio": ratio, "reach": "≤ 1.15", "unit": "s"}
    )
    return results


def _dispatches_per_second(url: str, task: str, jobs: int, *, with_library: bool) -> float:
    environment = {"BENCH_BROKER": url, "BENCH_LIBRARY": str(int(with_library))}
    return float(run_python(_DISPATCH.format(task=task, jobs=jobs), environment))


def _import_seconds(module: str) -> Any:
    # Celery's names are lazy: what any app needs at once is loaded on both sides.
    touch = "from celery import Celery, Task; Celery('x').Task"
    return lambda: run_python(_IMPORT.format(module=module, touch=touch), {})
