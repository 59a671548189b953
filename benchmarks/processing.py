"""Jobs a second through a real worker, with and without the library.

Caveat: the queue is full before the worker starts, so this is the cost of
processing alone; the time runs from the first to the last of the jobs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import redis

from benchmarks.measuring import alternate, private_redis, run_python, wait_for, worker

JOBS = 4000
SHORT_JOBS = 1000

ROWS = [
    ("plain task through Job: processing", "noop", "noop", 0.98),
    ("job with tries, backoff, max_exceptions, acknowledged early: processing", "noop_early", "noop_early", 0.97),
    ("the same, acknowledged late with durable attempts: processing", "noop_late", "noop_late", 0.90),
    ("job in a batch: processing", "batch", "noop", 0.90),
]

_PUBLISH = """
import json
from benchmarks._shop import app, mark, noop, noop_early, noop_late
n, kind = {jobs}, {kind!r}
with app.producer_or_acquire() as producer:
    mark.apply_async(('start',), producer=producer)
if kind == 'batch':
    from celery_laravel import Bus
    Bus.batch(noop.s() for _ in range(n)).dispatch()
else:
    task = dict(noop=noop, noop_early=noop_early, noop_late=noop_late)[kind]
    with app.producer_or_acquire() as producer:
        for _ in range(n):
            task.apply_async(producer=producer)
with app.producer_or_acquire() as producer:
    mark.apply_async(('end',), producer=producer)
print(json.dumps(n))
"""


def run(rounds: int = 5, *, short: bool = False) -> list[dict[str, Any]]:
    """Measure the rows; each round starts a worker of its own."""
    jobs = SHORT_JOBS if short else JOBS
    results = []
    with private_redis() as url:
        for name, ours, theirs, reach in ROWS:
            a, b, ratio = alternate(
                rounds,
                partial(_jobs_per_second, url, ours, jobs, with_library=True),
                partial(_jobs_per_second, url, theirs, jobs, with_library=False),
            )
            results.append(
                {"name": name, "ours": a, "theirs": b, "ratio": ratio, "reach": f"≥ {reach}", "unit": "jobs/s"}
            )
    return results


def _jobs_per_second(url: str, kind: str, jobs: int, *, with_library: bool) -> float:
    environment = {"BENCH_BROKER": url, "BENCH_LIBRARY": str(int(with_library))}
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.flushdb()
        run_python(_PUBLISH.format(jobs=jobs, kind=kind), environment)
        with worker(environment, "--without-gossip", "--without-mingle", "--without-heartbeat"):
            wait_for(lambda: client.llen("end"), 300, "the last job")
        start, end = float(client.lindex("start", 0)), float(client.lindex("end", 0))
    return jobs / (end - start)
