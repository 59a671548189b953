"""Jobs under a limit: how often each is delivered, how long all take, and how many start in one window.

Caveats: what jobs do is to note their start, which costs a call of Redis. Time
runs from the first delivery to the last start, so that starting a worker does
not count; the ideal is a full window of starts in every second. The release
that Laravel does takes many times as long and is measured once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import redis

from benchmarks.measuring import alternate, private_redis, run_python, wait_for, worker

APP = "benchmarks._limits_app"
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")

_PUBLISH = """
import json
from benchmarks._limits_app import app, mark
task = app.tasks[{task!r}]
with app.producer_or_acquire() as producer:
    {before}
    for number in range({jobs}):
        task.apply_async((number,), producer=producer)
    {after}
print(json.dumps({jobs}))
"""
_MARK = "mark.apply_async(({key!r},), producer=producer)"


@dataclass(frozen=True)
class Measured:
    """What became of some jobs under a limit."""

    deliveries_per_job: float
    seconds: float
    most_in_window: int
    most_in_a_second: int


def run(rounds: int = 5, *, short: bool = False) -> list[dict[str, Any]]:
    """Measure 1,000 jobs under 50 a second, and jobs whose limit and lock are free."""
    jobs, per_second = (200, 50) if short else (1000, 50)
    with private_redis() as url:
        all_ours = [_limited(url, "ours", jobs, per_second) for _ in range(rounds)]
        naive = _limited(url, "naive", jobs, per_second)
        a, b, ratio = alternate(
            rounds,
            partial(_jobs_per_second, url, 1000 if short else 4000, with_library=True),
            partial(_jobs_per_second, url, 1000 if short else 4000, with_library=False),
        )
    what = f"{jobs:,} jobs under {per_second} a second"
    ideal = jobs / per_second
    deliveries = median(ours.deliveries_per_job for ours in all_ours)
    seconds = median(ours.seconds for ours in all_ours)
    most = max(ours.most_in_window for ours in all_ours)
    second = max(ours.most_in_a_second for ours in all_ours)
    return [
        {
            "name": f"{what}: deliveries",
            "ours": deliveries,
            "theirs": naive.deliveries_per_job,
            "unit": "per job",
            "ratio": deliveries,
            "reach": "≤ 2.2",
            "note": "Theirs is the release that Laravel does; the ratio is ours to one delivery per job.",
        },
        {
            "name": f"{what}: time",
            "ours": seconds,
            "theirs": naive.seconds,
            "unit": "s",
            "ratio": seconds / ideal,
            "reach": "≤ 1.1",
            "note": f"Theirs is the release that Laravel does; the ratio is ours to the ideal {ideal:g} s.",
        },
        {
            "name": f"{what}: most starts in a window",
            "ours": most,
            "unit": "starts",
            "ratio": most / per_second,
            "reach": "≤ 1",
            "note": f"By the store's own windows. Within any second, wherever it begins, {second} at most; "
            f"with the release that Laravel does {naive.most_in_a_second}.",
        },
        {
            "name": "RateLimited and WithoutOverlapping on one job, not contended: processing",
            "ours": a,
            "theirs": b,
            "unit": "jobs/s",
            "ratio": ratio,
            "reach": "≥ 0.85",
            "note": "Theirs is a task of plain Celery.",
        },
    ]


def _limited(url: str, task: str, jobs: int, per_second: int) -> Measured:
    environment = {"BENCH_BROKER": url, "BENCH_LIBRARY": "1", "BENCH_PER_SECOND": str(per_second)}
    environment["BENCH_NOTE_WINDOWS"] = "1"
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.flushdb()
        run_python(_PUBLISH.format(task=task, jobs=jobs, before="", after=""), environment)
        with worker(environment, *QUIET, app=APP):
            wait_for(lambda: client.llen("starts") >= jobs, 600, f"the last start of {task}")
        starts = sorted(float(at) for at in client.lrange("starts", 0, -1))
        deliveries = sorted(float(at) for at in client.lrange("deliveries", 0, -1))
        windows = client.lrange("windows", 0, -1)
    return Measured(
        len(deliveries) / jobs,
        starts[-1] - deliveries[0],
        max(map(windows.count, set(windows)), default=0),
        max(sum(1 for at in starts if begin <= at < begin + 1) for begin in starts),
    )


def _jobs_per_second(url: str, jobs: int, *, with_library: bool) -> float:
    environment = {"BENCH_BROKER": url, "BENCH_LIBRARY": str(int(with_library))}
    marks = {"before": _MARK.format(key="start"), "after": _MARK.format(key="end")}
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.flushdb()
        name = f"{APP}.guarded"
        run_python(_PUBLISH.format(task=name, jobs=jobs, **marks), environment)
        with worker(environment, *QUIET, app=APP):
            wait_for(lambda: client.llen("end"), 300, "the last job")
        start, end = float(client.lindex("start", 0)), float(client.lindex("end", 0))
    return jobs / (end - start)
