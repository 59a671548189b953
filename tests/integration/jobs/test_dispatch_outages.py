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


@pytest.mark.parametrize(
    ("where", "pack", "broker"),
    [
        ("add", 1, "redis"),
        ("close", 1, "redis"),
        ("add", 4, "redis"),
        ("close", 4, "redis"),
        pytest.param("add", 1, "rabbitmq", marks=pytest.mark.rabbitmq),
    ],
)
def test_a_store_that_goes_away_midway_says_what_was_sent(  # noqa: PLR0917  fixtures
    make_lab: MakeLab, own_redis: OwnServer, where: str, pack: int, broker: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab = make_lab(broker=broker, store=own_redis.url)
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


def away(lab: Lab, point: str, nth: int) -> Any:
    """A worker in whose process the store goes away for a moment."""
    env = {"JOBS_AWAY": f"{point} {nth}", "JOBS_PATIENCE": "1"}
    return lab.worker(app="tests.support.away_app", env=env, concurrency=1)


def test_a_job_that_adds_jobs_in_an_outage_fails_and_its_batch_comes_to_an_end(make_lab: MakeLab) -> None:
    lab = make_lab()
    added, notes = uuid(), {kind: uuid() for kind in ("then", "catch", "finally")}
    note = lab.app.tasks["note"]
    pending = lab.bus.batch([lab.app.signature("adds", (added, 5), immutable=True)])
    pending = pending.then(note.s("then", notes["then"])).catch(note.s("catch", notes["catch"]))
    with away(lab, "batches.add:before", 2) as worker:
        batch = pending.finally_(note.s("finally", notes["finally"])).dispatch()
        finished = batch.wait(timeout=60)
        lab.wait_for(notes["finally"], "notes")
        (caught,) = lab.wait_for(notes["catch"], "notes")
        assert "after 2 jobs were sent; the broker keeps word" in str(caught)
        worker.wait_for_log("the broker keeps that until the store is back")
    that_ran = finished.total_jobs - finished.skipped_jobs  # one more is skipped, if the debt comes before the end
    assert (that_ran, finished.failed_jobs, finished.pending_jobs, finished.cancelled) == (3, 1, 0, True)
    assert lab.attempts(added) == [1, 1]
    assert {kind: len(lab.written(key, "notes")) for kind, key in notes.items()} == {
        "then": 0,
        "catch": 1,
        "finally": 1,
    }


def test_a_chain_goes_on_after_a_batch_whose_close_was_owed(make_lab: MakeLab) -> None:
    """Its jobs are not sent a second time."""
    lab = make_lab()
    inside, after = uuid(), uuid()
    with away(lab, "batches.close:before", 1) as worker:
        batch = lab.bus.batch([lab.sig("bare", "return:x", key=inside) for _ in range(3)])
        lab.bus.chain([batch, lab.sig("plain", "return:after", key=after)]).dispatch()
        lab.wait_for(after, "runs", timeout=60)
        worker.wait_for_log("the broker keeps that until the store is back")
    assert (lab.attempts(inside), lab.attempts(after)) == ([1, 1, 1], [1])
