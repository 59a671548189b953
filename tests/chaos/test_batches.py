"""Batches, whose workers are killed at every point between the last job's code and the callbacks' ends."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid

if TYPE_CHECKING:
    from celery_laravel import Batch
    from tests.chaos.ledger import Entry
    from tests.chaos.stage import Stage
    from tests.chaos.sweep import Sweep

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180)]

KINDS = ("then", "catch", "finally")


class Watched:
    """A batch whose callbacks write down that they were called, watched from a thread until it has ended."""

    def __init__(
        self,
        stage: Stage,
        members: list[tuple[Any, ...]],
        *,
        queue: str | None = None,
        is_watched: bool = True,
        pack: int | None = None,
    ) -> None:
        self.stage, self.key = stage, str(uuid())
        jobs = [stage.sig(task, self.key, *args) for task, *args in members]
        then, catch, finally_ = (self._callback(kind, queue) for kind in KINDS)
        pending = stage.bus.batch(jobs).then(then).catch(catch).finally_(finally_)
        if pack is not None:
            pending.pack(pack)
        self.batch: Batch = pending.allow_failures().dispatch()
        self.snapshots: list[Batch] = []
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        if is_watched:
            self._watcher.start()

    def _callback(self, kind: str, queue: str | None) -> Any:
        signature = self.stage.app.tasks["callback"].s(kind, self.key)
        return signature if queue is None else signature.set(queue=queue)

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.snapshots.append(self.fresh())

    def fresh(self) -> Batch:
        batch = self.batch.fresh()
        assert batch is not None
        return batch

    def called(self) -> list[str]:
        return [call["kind"] for call in self.stage.written(self.key, "called")]

    def close(self) -> None:
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def check(self, entry: Entry, total: int) -> None:
        """Every snapshot adds up, and nothing that was counted is taken back."""
        counts = [(b.total_jobs, b.processed_jobs, b.failed_jobs, b.skipped_jobs) for b in self.snapshots]
        entry.expect(all(count[0] == total for count in counts), f"a total other than {total}")
        entry.expect(all(failed + skipped <= processed <= all_ for all_, processed, failed, skipped in counts), "sums")
        falls = [
            (a, b) for a, b in pairwise(counts) if any(later < earlier for earlier, later in zip(a, b, strict=True))
        ]
        entry.expect(not falls, f"(total, processed, failed, skipped) fell: {falls}")
        batch = self.fresh()
        entry.expect(batch.pending_jobs == 0 and batch.finished, f"not finished: {batch!r}")


def expect_calls(sweep: Sweep, watched: Watched, kinds: tuple[str, ...]) -> None:
    """Each of these callbacks was called once in effect, under one id; a start that was killed is made up for."""
    entry, calls = sweep.entry, watched.stage.written(watched.key, "called")
    for kind in KINDS:
        ids = {call["id"] for call in calls if call["kind"] == kind}
        expected = 1 if kind in kinds else 0
        entry.expect(len(ids) == expected, f"{kind}: {len(ids)} ids")
        starts = sum(sweep.starts(f"callback:{kind}:{job_id}") for job_id in ids)
        entry.doubled += [kind] * (starts - expected)
        entry.lost += [kind] * (expected - len(ids))


@pytest.mark.promise("`then`, `catch`, `finally` each fire exactly once; counts equal what happened")
@pytest.mark.short(2)
@pytest.mark.parametrize("ending", ["success", "failure"])
def test_callbacks_fire_once(stage: Stage, sweep: Sweep, ending: str) -> None:
    last = "raise" if ending == "failure" else "return"
    kinds = ("catch", "finally") if ending == "failure" else ("then", "finally")

    def scenario() -> Watched:
        return Watched(stage, [("member3", "a"), ("member", "b", last)])

    watched = sweep.run(ending, scenario, lambda watched: set(watched.called()) >= set(kinds))
    entry = sweep.entry
    watched.check(entry, 2)
    expect_calls(sweep, watched, kinds)
    entry.expect(watched.fresh().failed_jobs == (ending == "failure"), f"failed: {watched.fresh().failed_jobs}")
    done = {step["name"] for step in stage.written(watched.key, "done")}
    entry.expect(done == ({"a"} if ending == "failure" else {"a", "b"}), f"done: {done}")
    entry.judge()
