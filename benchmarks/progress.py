"""The progress of a batch: one call of the store, whose time does not depend on the batch's size.

Caveats: the members are added to the store and ended there, without messages or
jobs: a look at a batch knows nothing of either. Redis is another process on the
same machine; SQLite is a file, whose pages the system holds in memory. The time
is that of ``Bus.find_batch(id)``, which makes the one call that is counted in the tests.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery

from benchmarks.measuring import alternate, private_redis
from celery_laravel import Bus, install
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import MemberEnd, MemberState, NewBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

FEW, MANY = 100, 1_000_000
FEW_FAILED, MANY_FAILED = 1_000, 20_000
LOOKS = 500


def run(rounds: int = 5, *, short: bool = False) -> list[dict[str, Any]]:
    """Measure the rows."""
    many_failed = 2_000 if short else MANY_FAILED
    with private_redis() as redis, tempfile.TemporaryDirectory() as folder:
        stores = {"Redis": redis, "SQLite": f"sqlite:///{folder}/store.db"}
        return [row for name, url in stores.items() for row in _of_a_store(name, url, rounds, many_failed)]


def _of_a_store(name: str, url: str, rounds: int, many_failed: int) -> Iterator[dict[str, Any]]:
    app = install(Celery("progress", broker="memory://", set_as_current=False))
    app.conf.laravel_store = url
    for batch_id, jobs, failed in (
        ("few", FEW, 0),
        ("many", MANY, 0),
        ("few failed", MANY, FEW_FAILED),
        ("many failed", MANY, many_failed),
    ):
        _make(app, batch_id, jobs, failed)
    for what, ours, theirs, reach in (
        (f"a batch of {MANY:,}, against one of {FEW:,}", "many", "few", "≤ 1.2"),
        # A hundred ids are read in either case; Redis finds them in a table that is more or less full.
        (f"{many_failed:,} failed jobs of {MANY:,}, against {FEW_FAILED:,}", "many failed", "few failed", "≤ 1.5"),
    ):
        slow, quick, ratio = alternate(rounds, partial(_look, app, ours), partial(_look, app, theirs))
        yield {
            "name": f"{name}: progress of {what}",
            "ours": slow * 1e6,
            "theirs": quick * 1e6,
            "ratio": ratio,
            "reach": reach,
            "unit": "µs",
        }
    store_of(app).close()


def _make(app: Celery, batch_id: str, jobs: int, failed: int) -> None:
    batches = store_of(app).batches
    batches.create(NewBatch(batch_id, allows_failures=True))
    batches.add(batch_id, jobs)
    batches.close(batch_id)
    for index in range(failed):
        batches.end_member(MemberEnd(batch_id, index, f"{batch_id}-{index}", MemberState.FAILED))


def _look(app: Celery, batch_id: str) -> float:
    """Seconds for one look, by the mean of many."""
    bus = Bus(app)
    start = time.perf_counter()
    for _ in range(LOOKS):
        batch = bus.find_batch(batch_id)
        assert batch is not None
        assert not batch.finished
    return (time.perf_counter() - start) / LOOKS
