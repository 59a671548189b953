"""The store goes away while a batch is dispatched: what was sent is told, and the batch comes to its end."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.utils import uuid

from celery_laravel.dispatch import ending, members
from celery_laravel.errors import BatchDispatchError
from tests.integration.jobs.test_outages import own_redis, stop

if TYPE_CHECKING:
    from celery_laravel import Batch
    from tests.integration.jobs.conftest import Lab, MakeLab
    from tests.stores.redis_servers import OwnServer

__all__ = ["own_redis"]

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

SLICE, JOBS = 10, 15
WHERE = pytest.mark.parametrize("where", ["add", "close"])


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "SLICE", SLICE)


class Dispatch:
    """A batch of jobs that write under one key; a server is stopped before its second add, or before its close."""

    def __init__(self, lab: Lab, server: OwnServer, where: str, *, pack: int = 1) -> None:
        self.lab, self.server = lab, server
        self.last_told = SLICE if where == "add" else JOBS
        self.runs, self.notes = uuid(), {kind: uuid() for kind in ("then", "finally")}
        note = lab.app.tasks["note"]
        jobs = (lab.sig("bare", "return:x", key=self.runs) for _ in range(JOBS))
        pending = lab.bus.batch(jobs).pack(pack).then(note.s("then", self.notes["then"]))
        self.pending = pending.finally_(note.s("finally", self.notes["finally"]))

    def __call__(self) -> Batch:
        batch: Batch = self.pending.dispatch(on_progress=self._stop)
        return batch

    def _stop(self, sent: int) -> None:
        if sent == self.last_told:
            stop(self.server)

    def wait(self, batch_id: str) -> Batch:
        """Wait until the batch has finished, its jobs have run, and what follows is called."""
        batch = self.lab.bus.find_batch(batch_id)
        assert batch is not None
        finished: Batch = batch.wait(timeout=60)
        self.lab.wait_for(self.notes["finally"], "notes")
        self.lab.wait_for(self.runs, "runs", self.last_told)
        return finished

    def check(self, finished: Batch, *, is_whole: bool) -> None:
        """Look at all that came of it, when no worker is left that could add to that."""
        counts = (finished.total_jobs, finished.skipped_jobs, finished.failed_jobs, finished.cancelled)
        assert counts == ((JOBS, 0, 0, False) if is_whole else (SLICE + 1, 1, 0, True))
        assert self.lab.attempts(self.runs) == [1] * (JOBS if is_whole else SLICE), "each job runs, and runs once"
        called = {kind: len(self.lab.written(key, "notes")) for kind, key in self.notes.items()}
        assert called == {"then": 1 if is_whole else 0, "finally": 1}


@WHERE
@pytest.mark.parametrize("pack", [1, 4], ids=["plain", "packed"])
def test_a_store_that_goes_away_midway_says_what_was_sent(
    make_lab: MakeLab, own_redis: OwnServer, where: str, pack: int, caplog: pytest.LogCaptureFixture
) -> None:
    lab = make_lab(store=own_redis.url)
    dispatch = Dispatch(lab, own_redis, where, pack=pack)
    with caplog.at_level(logging.WARNING, "celery_laravel"):
        if where == "add":
            with pytest.raises(BatchDispatchError, match="after 10 jobs were sent; the broker keeps word") as raised:
                dispatch()
            assert (raised.value.sent, raised.value.ending) == (SLICE, "kept")
            batch_id = raised.value.batch_id
        else:
            batch = dispatch()
            assert (batch.total_jobs, batch.pending_jobs) == (JOBS, JOBS)
            batch_id = batch.id
    assert "the broker keeps that until the store is back" in caplog.text
    with lab.worker(env={"JOBS_PATIENCE": "1"}) as worker:  # the debt waits as long as the store is away
        worker.wait_for_log("celery_laravel.settle) is put back")
        own_redis.start()
        finished = dispatch.wait(batch_id)
    dispatch.check(finished, is_whole=where == "close")


@WHERE
def test_where_store_and_broker_are_away_the_error_says_how_to_close_the_batch(
    make_lab: MakeLab, own_redis: OwnServer, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One Redis is both, as it is where nothing is said."""
    monkeypatch.setattr(ending, "PATIENCE", 0)
    lab = make_lab(broker=own_redis.url, store=own_redis.url)
    dispatch = Dispatch(lab, own_redis, where)
    with pytest.raises(BatchDispatchError, match="close-batch") as raised:
        dispatch()
    error = raised.value
    assert (error.sent, error.ending) == ((SLICE, "open") if where == "add" else (JOBS, "unclosed"))
    own_redis.start()
    batch: Any = lab.bus.find_batch(error.batch_id)
    batch.close(incomplete=error.ending == "open", unsent=error.unsent)
    with lab.worker():
        finished = dispatch.wait(error.batch_id)
    dispatch.check(finished, is_whole=where == "close")


def test_a_restart_that_is_over_in_time_is_no_outage_to_a_dispatch(
    make_lab: MakeLab, own_redis: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Store and broker are tried in turn; here the server is back after the first pause."""
    lab = make_lab(broker=own_redis.url, store=own_redis.url)
    dispatch = Dispatch(lab, own_redis, "close")
    monkeypatch.setattr(ending, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: own_redis.start()))
    batch = dispatch()
    with lab.worker():
        finished = dispatch.wait(batch.id)
    dispatch.check(finished, is_whole=True)
