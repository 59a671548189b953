"""The database broker on SQLite against kombu's ``filesystem://``, and on PostgreSQL against its ``sqla+postgresql://``.

All are at their defaults. On PostgreSQL four workers share the queue, with a
child each, and what is measured is how fast they empty it. kombu's transport acknowledges
nothing and keeps what it has delivered; with it the jobs of a killed worker are
gone, with ours they are not.

Caveats: publisher, worker and its two children share the processors. The jobs
do next to nothing: they add a byte to a file, by which the end is noticed. A
lone job's latency depends on when it meets the other broker's poll, which is
once a second; the jobs are sent at uneven intervals for that. While a job is
published and another fetched at the same moment, ``filesystem://`` may read a
file that is half written and lose its worker; such a round is measured again.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import NotMeasuredError
from benchmarks._database_app import make_app
from benchmarks.measuring import alternate, wait_for, worker
from celery_laravel.transport.database.migrating import migrate
from celery_laravel.transport.database.options import BrokerOptions

if TYPE_CHECKING:
    from subprocess import Popen

    from celery import Celery

APP = "benchmarks._database_app"
JOBS = 2000
WORKERS = 4
WARMING_JOBS = 1000
LONE_JOBS = 15
SHORT_LONE_JOBS = 5
ATTEMPTS = 3


class _WorkerLostError(Exception):
    pass


class _Round(NamedTuple):
    jobs_per_second: float
    milliseconds: float


def run(rounds: int = 5, *, short: bool = False) -> list[dict[str, Any]]:
    """Measure throughput, from the first publish to the last job done, and the latency of lone jobs."""
    lone_jobs = SHORT_LONE_JOBS if short else LONE_JOBS
    measured: dict[str, list[_Round]] = {"database": [], "filesystem": []}
    for number in range(rounds):
        for broker in sorted(measured, reverse=bool(number % 2)):
            measured[broker].append(_measure(broker, lone_jobs))
    ours, theirs = measured["database"], measured["filesystem"]
    return [
        *_on_postgresql(rounds),
        _row("database broker on SQLite, end to end", 0, ours, theirs, unit="jobs/s", reach="≥ 1.5"),
        _row("database broker on SQLite, latency of a lone job", 1, ours, theirs, unit="ms", reach="≤ 0.1"),
    ]


def _on_postgresql(rounds: int) -> list[dict[str, Any]]:
    from tests.servers.contract import ServerMissingError
    from tests.servers.servers import Servers

    servers = Servers()
    try:
        url = servers.url("postgresql")
        migrate(BrokerOptions(url))
        ours, theirs, ratio = alternate(
            rounds,
            partial(_shared_by_workers, f"database+{url}"),
            partial(_shared_by_workers, f"sqla+{url}"),
        )
    except ServerMissingError as error:
        raise NotMeasuredError(f"no PostgreSQL: {error}") from error
    finally:
        servers.close()
    return [
        {
            "name": f"database broker on PostgreSQL, {WORKERS} workers emptying a queue",
            "ours": ours,
            "theirs": theirs,
            "ratio": ratio,
            "reach": "≥ 3",
            "unit": "jobs/s",
            "note": "against sqla+postgresql:// of kombu at its default",
        }
    ]


def _shared_by_workers(broker: str) -> float:
    """Jobs a second of several workers at once: of the jobs sent before they start, those after the first part."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        app = make_app(broker, folder)
        stack.callback(app.close)
        with app.producer_or_acquire() as producer:
            for _ in range(WARMING_JOBS + JOBS):
                app.send_task("arrive", (0,), producer=producer)
        environment = {"BENCH_BROKER": broker, "BENCH_FOLDER": name}
        arguments = ("-c", "1", "--without-gossip", "--without-mingle")
        workers = [
            stack.enter_context(worker(environment, "-n", f"bench{number}@localhost", *arguments, app=APP))
            for number in range(WORKERS)
        ]
        record = folder / "arrivals"
        _wait(workers[0], lambda: len(_lines(record)) >= WARMING_JOBS + JOBS)
        done = sorted(float(line) for line in _lines(record))
        return JOBS / (done[-1] - done[WARMING_JOBS])


def _row(name: str, field: int, ours: list[_Round], theirs: list[_Round], *, unit: str, reach: str) -> dict[str, Any]:
    return {
        "name": name,
        "ours": median(one[field] for one in ours),
        "theirs": median(one[field] for one in theirs),
        "ratio": median(a[field] / b[field] for a, b in zip(ours, theirs, strict=True)),
        "reach": reach,
        "unit": unit,
        "note": "against filesystem:// of kombu at its default",
    }


def _measure(broker: str, lone_jobs: int) -> _Round:
    for _ in range(ATTEMPTS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            app = make_app(broker, folder)
            try:
                with worker({"BENCH_BROKER": broker, "BENCH_FOLDER": name}, app=APP) as process:
                    _arrivals(app, folder, process, 1)  # the worker is up
                    latency = median(_arrivals(app, folder, process, lone_jobs))
                    return _Round(_throughput(app, folder, process), latency * 1000)
            except _WorkerLostError:
                continue
            finally:
                app.close()
    raise NotMeasuredError(f"the worker on {broker} ended in {ATTEMPTS} rounds one after the other")


def _arrivals(app: Celery, folder: Path, process: Popen[bytes], jobs: int) -> list[float]:
    record = folder / "arrivals"
    before = len(_lines(record))
    for number in range(jobs):
        time.sleep(0.1 + 0.037 * (number % 5))
        app.send_task("arrive", (time.time(),))
        _wait(process, lambda number=number: len(_lines(record)) > before + number)
    return [float(line) for line in _lines(record)[before:]]


def _throughput(app: Celery, folder: Path, process: Popen[bytes]) -> float:
    record = folder / "count"
    started = time.perf_counter()
    with app.producer_or_acquire() as producer:
        for _ in range(JOBS):
            app.send_task("count", producer=producer)
    _wait(process, lambda: record.exists() and record.stat().st_size >= JOBS)
    return JOBS / (time.perf_counter() - started)


def _wait(process: Popen[bytes], condition: Any) -> None:
    def holds() -> bool:
        if process.poll() is not None:
            raise _WorkerLostError
        return bool(condition())

    wait_for(holds, 120, "the last job")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
