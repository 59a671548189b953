"""Batches as a whole: dispatching them, against groups, chords and the bare broker.

Caveats: the dispatcher and the Redis server share the processors. Memory is the
dispatcher's peak over what it had before, and what Redis holds for the batch
itself, without the messages. Against a chord it is what Redis holds when the
callback has run, and the growth of all of the worker's processes by then.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import redis

from benchmarks.measuring import alternate, private_redis, resident, run_python, wait_for, worker

if TYPE_CHECKING:
    from collections.abc import Sequence

JOBS = 10_000
MANY = 1_000_000
SHORT_JOBS = 2_000
SHORT_MANY = 50_000
PACK = 100

_BATCH = """
import json, resource, time
from benchmarks._shop import numbered
from celery_laravel import Bus
Bus.batch([numbered.s(-1)]).dispatch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
batch = Bus.batch(numbered.s(i) for i in range({jobs})).dispatch()
seconds = time.perf_counter() - start
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([{jobs} / seconds, grown / 1024, batch.id]))
"""

_GROUP = """
import json, time
from celery import group
from benchmarks._shop import numbered
group([numbered.s(-1)]).apply_async()
start = time.perf_counter()
group(numbered.s(i) for i in range({jobs})).apply_async()
print(json.dumps([{jobs} / (time.perf_counter() - start)]))
"""

_PUSH = """
import json, time, redis
from benchmarks._shop import BROKER
client = redis.Redis.from_url(BROKER)
texts = client.lrange('celery', 0, -1)[: {jobs}]
start = time.perf_counter()
for first in range(0, len(texts), 1000):
    with client.pipeline(transaction=False) as pipe:
        for text in texts[first : first + 1000]:
            pipe.lpush('bare', text)
        pipe.execute()
print(json.dumps([len(texts) / (time.perf_counter() - start)]))
"""

_BATCH_THEN = """
import json, time
from benchmarks._shop import mark, numbered
from celery_laravel import Bus
start = time.time()
Bus.batch(numbered.s(i) for i in range({jobs})).then(mark.si('end')).dispatch()
print(json.dumps(start))
"""

_PACKED_THEN = _BATCH_THEN.replace(".then(", f".pack({PACK}).then(")

_CHORD = """
import json, time
from celery import chord
from benchmarks._shop import kept, mark
start = time.time()
chord([kept.s(i) for i in range({jobs})])(mark.si('end'))
print(json.dumps(start))
"""


def run(rounds: int = 5, *, short: bool = False) -> list[dict[str, Any]]:
    """Measure the rows."""
    jobs, many = (SHORT_JOBS, SHORT_MANY) if short else (JOBS, MANY)
    with private_redis() as url:
        return [
            *_dispatching(url, jobs, rounds),
            *_a_great_many(url, jobs, many),
            *_against_a_chord(url, jobs, min(rounds, 3)),
        ]


def _dispatching(url: str, jobs: int, rounds: int) -> list[dict[str, Any]]:
    ours, theirs, ratio = alternate(
        rounds, partial(_dispatched, url, _BATCH, jobs), partial(_dispatched, url, _GROUP, jobs, with_library=False)
    )
    rows = [_row(f"batch of {jobs:,}: dispatch, against group().apply_async()", ours, theirs, ratio, "≥ 20")]
    ours, theirs, ratio = alternate(rounds, partial(_dispatched, url, _BATCH, jobs), partial(_pushed, url, jobs))
    return [*rows, _row("the same, against a pipelined LPUSH of the same bytes", ours, theirs, ratio, "≥ 0.4")]


def _a_great_many(url: str, jobs: int, many: int) -> list[dict[str, Any]]:
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        few_a_second, *_ = run_python(_BATCH.format(jobs=jobs), _environment(url))
        client.delete("celery")
        many_a_second, grown, many_id = run_python(_BATCH.format(jobs=many), _environment(url))
        client.delete("celery")
        kept = sum(client.memory_usage(key) or 0 for key in client.scan_iter(f"*{many_id}*"))
    ratio = few_a_second / many_a_second
    row = _row(f"batch of {many:,}: time per job, against {jobs:,}", many_a_second, few_a_second, ratio, "≤ 1.2")
    row["note"] = (
        f"the dispatcher's memory grew by {grown:.0f} MB (reach: < 100); "
        f"Redis keeps {kept / 1e6:.2f} MB for the batch itself (reach: ≤ 0.5)"
    )
    return [row]


def _against_a_chord(url: str, jobs: int, rounds: int) -> list[dict[str, Any]]:
    ways = {"plain": (_BATCH_THEN, True), "packed": (_PACKED_THEN, True), "chord": (_CHORD, False)}
    runs: dict[str, list[_Run]] = {name: [] for name in ways}
    for number in range(rounds):
        order = list(ways) if number % 2 else list(reversed(ways))
        for name in order:
            code, with_library = ways[name]
            runs[name].append(_end_to_end(url, code, jobs, with_library=with_library))
    names = {
        "plain": f"batch of {jobs:,} with then, dispatch to callback, against a chord of plain Celery",
        "packed": f"the same, packed {PACK} members to a message",
    }
    rows = []
    for name, reach in (("plain", "≥ 1.4"), ("packed", "≥ 10")):
        ratio = median(theirs.seconds / ours.seconds for ours, theirs in zip(runs[name], runs["chord"], strict=True))
        ours, theirs = (jobs / median(run.seconds for run in runs[which]) for which in (name, "chord"))
        row = _row(names[name], ours, theirs, ratio, reach)
        row["note"] = "; ".join(_memory(which, runs[which]) for which in (name, "chord"))
        rows.append(row)
    return rows


def _memory(name: str, runs: Sequence[_Run]) -> str:
    store, worker = (median(values) for values in zip(*((run.store, run.worker) for run in runs), strict=True))
    return f"{name}: Redis grew by {store / 1e6:.2f} MB, the worker by {worker / 1e6:.0f} MB"


def _dispatched(url: str, code: str, jobs: int, *, with_library: bool = True) -> float:
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return float(run_python(code.format(jobs=jobs), _environment(url, with_library=with_library))[0])


def _pushed(url: str, jobs: int) -> float:
    _dispatched(url, _BATCH, jobs)
    return float(run_python(_PUSH.format(jobs=jobs), _environment(url))[0])


class _Run(NamedTuple):
    """Seconds from dispatch to callback, and the bytes by which Redis and the worker grew meanwhile."""

    seconds: float
    store: int
    worker: int


def _end_to_end(url: str, code: str, jobs: int, *, with_library: bool) -> _Run:
    environment = _environment(url, with_library=with_library)
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.flushdb()
        with worker(environment, "--without-gossip", "--without-mingle", "--without-heartbeat") as process:
            wait_for(lambda: client.pubsub_channels() or client.exists("_kombu.binding.celery"), 60, "the worker")
            before = client.info("memory")["used_memory"], resident(process.pid)
            start = run_python(code.format(jobs=jobs), environment)
            wait_for(lambda: client.llen("end"), 600, "the callback")
            end = float(client.lindex("end", 0))
            after = client.info("memory")["used_memory"], resident(process.pid)
    return _Run(end - float(start), after[0] - before[0], after[1] - before[1])


def _environment(url: str, *, with_library: bool = True) -> dict[str, str]:
    return {"BENCH_BROKER": url, "BENCH_LIBRARY": str(int(with_library)), "BENCH_RESULTS": url}


def _row(name: str, ours: float, theirs: float, ratio: float, reach: str) -> dict[str, Any]:
    return {"name": name, "ours": ours, "theirs": theirs, "ratio": ratio, "reach": reach, "unit": "jobs/s"}
