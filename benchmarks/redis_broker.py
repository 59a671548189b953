"""The Redis broker that loses nothing against kombu's own transport: plain tasks, no other feature in the way.

Caveats: throughput is that of a full queue, from the first of its jobs to the
last. A lone job is sent when the worker has nothing else to do. Idle is a
worker with its heartbeat, gossip and mingle off, whose main process and two
children are looked at together; at this little work a tenth is noise.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import redis

from benchmarks import NotMeasuredError
from benchmarks.measuring import alternate, private_redis, run_python, wait_for, worker

JOBS = 4000
SHORT_JOBS = 1000
LONE_JOBS = 60
SHORT_LONE_JOBS = 20
IDLE_SECONDS = 20.0
SHORT_IDLE_SECONDS = 6.0
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")

_PUBLISH = """
import json
from benchmarks._redis_app import app, mark, {task}
with app.producer_or_acquire() as producer, producer.batch():
    mark.apply_async(('start',), producer=producer)
    for _ in range({jobs}):
        {task}.apply_async(producer=producer)
    mark.apply_async(('end',), producer=producer)
print(json.dumps({jobs}))
"""
_LONE = """
import json, time
from benchmarks._redis_app import mark
for _ in range({jobs}):
    mark.delay('lone', time.time())
    time.sleep(0.15)
print(json.dumps({jobs}))
"""


def run(rounds: int = 5, *, short: bool = False) -> list[dict[str, Any]]:
    """Measure the rows; each round starts a worker of its own."""
    jobs, idle = (SHORT_JOBS, SHORT_IDLE_SECONDS) if short else (JOBS, IDLE_SECONDS)
    lone = SHORT_LONE_JOBS if short else LONE_JOBS
    with private_redis() as url:
        measured = [
            ("early acknowledgement: processing", partial(_throughput, url, "noop", jobs), "jobs/s", "≥ 0.95"),
            ("late acknowledgement: processing", partial(_throughput, url, "noop_late", jobs), "jobs/s", "≥ 0.95"),
            ("latency of a lone job", partial(_latency, url, lone), "ms", "≤ 1.2"),
            ("CPU of an idle worker", partial(_idle_cpu, url, idle), "ms/s", "≤ 1"),
            ("requests of an idle worker", partial(_idle_requests, url, idle), "per s", "≤ 1"),
        ]
        rows = []
        for name, measure, unit, reach in measured:
            ours, theirs, ratio = alternate(rounds, partial(measure, "1"), partial(measure, "0"))
            rows.append(
                {
                    "name": f"safe Redis broker, {name}",
                    "ours": ours,
                    "theirs": theirs,
                    "ratio": ratio,
                    "reach": reach,
                    "unit": unit,
                }
            )
    return rows


def _throughput(url: str, task: str, jobs: int, safe: str) -> float:
    environment = {"BENCH_BROKER": url, "BENCH_SAFE": safe}
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.flushdb()
        run_python(_PUBLISH.format(jobs=jobs, task=task), environment)
        with worker(environment, *QUIET, app="benchmarks._redis_app"):
            wait_for(lambda: client.llen("end"), 300, "the last job")
        start, end = (float(client.lindex(key, 0) or 0) for key in ("start", "end"))
    return jobs / (end - start)


def _latency(url: str, jobs: int, safe: str) -> float:
    environment = {"BENCH_BROKER": url, "BENCH_SAFE": safe}
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.flushdb()
        with worker(environment, *QUIET, app="benchmarks._redis_app"):
            run_python(_LONE.format(jobs=jobs + 1), environment)  # the first connects
            wait_for(partial(_has_more_than, client, jobs), 30, "the lone jobs")
        return 1000 * median(map(float, client.lrange("lone", 1, -1)))


def _has_more_than(client: Any, number: int) -> bool:
    return int(client.llen("lone")) > number


def _idle_cpu(url: str, seconds: float, safe: str) -> float:
    with redis.Redis.from_url(url) as client:
        return _while_idle(url, client, safe, seconds)[0]


def _idle_requests(url: str, seconds: float, safe: str) -> float:
    with redis.Redis.from_url(url) as client:
        return _while_idle(url, client, safe, seconds)[1]


def _while_idle(url: str, client: Any, safe: str, seconds: float) -> tuple[float, float]:
    """Milliseconds of processor time, and requests, per second of a worker that has nothing to do."""
    environment = {"BENCH_BROKER": url, "BENCH_SAFE": safe}
    client.flushdb()
    with worker(environment, *QUIET, app="benchmarks._redis_app") as process:
        run_python(_LONE.format(jobs=1), environment)
        wait_for(lambda: client.llen("lone"), 30, "the worker")
        time.sleep(2)  # what a worker does when it has just begun
        whole = psutil.Process(process.pid)
        cpu, requests, since = _cpu(whole), client.info("stats")["total_reads_processed"], time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - since
        spent = client.info("stats")["total_reads_processed"] - requests - 1
        return 1000 * (_cpu(whole) - cpu) / passed, spent / passed


def _cpu(process: psutil.Process) -> float:
    """Seconds that all threads of a worker's processes ran; the usual counters know hundredths only."""
    found = [
        int(file.read_text().split()[0])
        for one in (process, *process.children(recursive=True))
        for file in Path(f"/proc/{one.pid}/task").glob("*/schedstat")
    ]
    if not found:
        msg = "this system does not count the time of threads in /proc"
        raise NotMeasuredError(msg)
    return sum(found) / 1e9
