"""Delays that wait in the store: what a job that is due costs whoever moves it, and what those that wait cost a worker.

Caveats: the store is asked without messages or jobs for the first rows: on Redis
to push what is due to a list of its own, on SQLite to give it out and to forget
it. For the last row jobs are delayed by a day, and what is compared is the
resident memory of a worker's main process once it has looked for what is due
several times; with delays left to Celery, the same worker keeps them all.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from datetime import timedelta
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
import redis

from benchmarks.measuring import alternate, private_redis, run_python, wait_for, worker
from celery_laravel.stores.factory import open_store
from celery_laravel.stores.records import NewDelay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_laravel.stores.contracts import Store

FEW, MANY = 1_000, 100_000
SHORT_MANY = 10_000
DUE = 250
TIMES = 5
_DAY = timedelta(days=1)
_MESSAGE = '{"headers": {"id": "job"}, "body": "%s"}' % ("x" * 600)
_numbers = itertools.count()

_DISPATCH = """
import json
from benchmarks._delays_app import app, noop
with app.producer_or_acquire() as producer:
    for number in range({jobs}):
        noop.apply_async((number,), countdown=86400, producer=producer)
print(json.dumps({jobs}))
"""


def run(rounds: int = 5, *, short: bool = False) -> list[dict[str, Any]]:
    """Measure the rows."""
    many = SHORT_MANY if short else MANY
    with private_redis() as url, tempfile.TemporaryDirectory() as folder:
        rows = list(_moving("Redis: push", url, url, rounds, many))
        rows += _moving(
            "SQLite: claim and remove", f"sqlite:///{folder}/few.db", f"sqlite:///{folder}/many.db", rounds, many
        )
        rows += _memory(url, rounds, many)
    return rows


def _moving(name: str, few_url: str, many_url: str, rounds: int, many: int) -> Iterator[dict[str, Any]]:
    few_store, many_store = open_store(few_url, prefix="few"), open_store(many_url, prefix="many")
    for store, count in ((few_store, FEW), (many_store, many)):
        for start in range(0, count, DUE):
            store.delays.park([_delay(store, _DAY) for _ in range(start, min(start + DUE, count))])
    slow, quick, ratio = alternate(rounds, partial(_move, many_store), partial(_move, few_store))
    yield {
        "name": f"{name} a job that is due, of {many:,} that wait against {FEW:,}",
        "ours": slow * 1e6,
        "theirs": quick * 1e6,
        "ratio": ratio,
        "reach": "≤ 1.2",
        "unit": "µs",
    }
    for store in (few_store, many_store):
        store.close()


def _delay(store: Store, delay: timedelta) -> NewDelay:
    number = next(_numbers)
    target = "bench-queue" if store.delays.server is not None else None
    return NewDelay(f"{number:032d}", f"job-{number}", "task", "queue", _MESSAGE, delay, target)


def _move(store: Store) -> float:
    """Seconds for a job that is due, by the median of several times as many as a worker moves at once."""
    found = []
    for _ in range(TIMES):
        store.delays.park([_delay(store, timedelta()) for _ in range(DUE)])
        start = time.perf_counter()
        if store.delays.server is None:
            claimed = store.delays.claim(limit=DUE, lease=_DAY)
            moved = store.delays.remove([record.entry for record in claimed])
        else:
            moved = store.delays.move(limit=DUE)
        found.append((time.perf_counter() - start) / DUE)
        assert moved == DUE, moved
    return median(found)


def _memory(url: str, rounds: int, many: int) -> Iterator[dict[str, Any]]:
    ours, theirs, ratio = alternate(rounds, partial(_resident, url, many), partial(_resident, url, FEW))
    plain = [_resident(url, jobs, parks=False) for jobs in (FEW, FEW * 10)]
    yield {
        "name": f"memory of a worker while {many:,} jobs are delayed, against {FEW:,}",
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "reach": "≤ 1.05",
        "unit": "MB",
        "note": f"With delays left to Celery: {plain[0]:.0f} MB at {FEW:,} and {plain[1]:.0f} MB at {FEW * 10:,}.",
    }


def _resident(url: str, jobs: int, *, parks: bool = True) -> float:
    """Megabytes that the main process of a worker has while so many jobs are delayed."""
    environment = {"BENCH_BROKER": url, "BENCH_PARKS": "1" if parks else "0"}
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        with worker(environment, app="benchmarks._delays_app") as process:
            run_python(_DISPATCH.format(jobs=jobs), environment)
            wait_for(partial(_all_delayed, client, jobs, parks), 300, "the jobs")
            wait_for(partial(_has_looked, client, _looks(client) + 10), 60, "the worker's looks")
            return float(psutil.Process(process.pid).memory_info().rss) / 2**20


def _all_delayed(client: Any, jobs: int, parks: bool) -> bool:
    return bool(client.hlen("laravel:{delays}:records" if parks else "unacked") >= jobs)


def _has_looked(client: Any, looks: int) -> bool:
    return _looks(client) >= looks


def _looks(client: Any) -> int:
    """How many scripts the server has run: those of a worker that looks for what is due, by now."""
    return int(client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))
