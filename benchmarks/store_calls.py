"""Calls of the store for each job, feature by feature, counted by the server.

Caveats: a call that nobody waits for, such as the freeing of a lock, counts like
one that a job waits for. A worker asks by itself every few seconds, so figures are
rounded to a tenth. They are counts and not times, and one round is enough.
"""

from __future__ import annotations

import time
from typing import Any

import redis

from benchmarks.measuring import private_redis, run_python, wait_for, worker

JOBS = 200
SHORT_JOBS = 40

APP = "benchmarks._features_app"

_PUBLISH = """
import json
from benchmarks._features_app import app
from celery_laravel import Bus
task = app.tasks[{task!r}]
if {batch!r}:
    Bus(app).batch(task.s(number) for number in range({jobs})).dispatch()
else:
    for number in range({jobs}):
        task.delay(number)
print(json.dumps({jobs}))
"""

ROWS: list[tuple[str, str, bool, float | None, float | None]] = [
    ("a task that declares nothing", "plain", False, 0, 0),
    ("tries, acknowledged early", "tries_early", False, 0, 0),
    ("tries, with durable attempts", "tries", False, 0, 2),
    ("a member of a batch", "batch", True, None, 1),
    ("SkipIfBatchCancelled, on a member of a batch", "skip_if_cancelled", True, None, 2),
    ("RateLimited", "limited", False, 0, 1),
    ("RateLimited, two limits at once", "limited_twice", False, 0, 1),
    ("WithoutOverlapping, the freeing included", "overlap", False, 0, 2),
    ("ThrottlesExceptions, nothing raised", "throttled", False, 0, 1),
    ("unique", "unique", False, 2, 3),
    ("unique, with unique_for", "unique_for", False, 1, 3),
    ("unique until processing", "until_processing", False, 2, 3),
    ('unique="latest"', "latest", False, 2, 4),
    ("debounce_for", "debounced", False, 2, 1),
]
"""What it is, the job, whether it is a batch's, and the calls to reach: at the dispatch, and where it is worked."""


def run(rounds: int = 5, *, short: bool = False) -> list[dict[str, Any]]:  # noqa: ARG001  counts need no rounds
    """Count them, each feature with a worker of its own."""
    results = []
    with private_redis() as broker, private_redis() as store:
        for what, task, is_batch, most_at_dispatch, most_at_work in ROWS:
            jobs = SHORT_JOBS if short else JOBS
            at_dispatch, at_work = _calls(broker, store, task, jobs, is_batch=is_batch)
            for where, calls, most in (("dispatch", at_dispatch, most_at_dispatch), ("work", at_work, most_at_work)):
                if most is None:
                    continue  # a batch makes a call for a slice of its members, which no single job shows
                row = {"name": f"{what}: {where}", "ours": calls, "unit": "calls per job"}
                results.append({**row, "ratio": calls, "reach": f"≤ {most:g}"})
    return results


def _calls(broker: str, store: str, task: str, jobs: int, *, is_batch: bool) -> tuple[float, float]:
    environment = {"BENCH_BROKER": broker, "BENCH_STORE": store}
    with redis.Redis.from_url(broker) as queue, redis.Redis.from_url(store) as asked:
        queue.flushdb()
        asked.flushdb()
        before = _answered(asked)
        run_python(_PUBLISH.format(task=task, jobs=jobs, batch=is_batch), environment)
        dispatched = _answered(asked)
        with worker(environment, "--without-gossip", "--without-mingle", "--without-heartbeat", app=APP):
            wait_for(lambda: int(queue.get("ran") or 0) >= jobs, 120, f"the last job of {task}")
            worked = wait_for(lambda: _settled(asked), 30, "the last call of the store")
    return round((dispatched - before) / jobs, 1), round((worked - dispatched) / jobs, 1)


def _answered(client: redis.Redis) -> int:
    """The scripts that a server has run: each call of the store is one."""
    ran = client.info("commandstats").get("cmdstat_evalsha", {})
    return int(ran.get("calls", 0)) - int(ran.get("failed_calls", 0))


def _settled(client: redis.Redis) -> int | None:
    """The same once it does not grow any more."""
    count = _answered(client)
    time.sleep(0.5)
    return count if _answered(client) == count else None
