"""The store goes away while jobs run: what has ended is written down when it is back, and nothing runs meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery.utils import uuid

from celery_laravel.testing.processes import wait_until
from tests.stores.redis_servers import OwnServer, own_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.jobs.conftest import MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

KEPT = "the broker keeps that until the store is back"


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnServer]:
    with own_server(tmp_path / "redis") as server:
        yield server


def stop(server: OwnServer) -> None:
    """Stop a server, which keeps what it has for the next start."""
    with server.client() as client:
        client.save()
    server.stop()


def test_jobs_that_end_while_the_store_is_away_keep_their_outcome(make_lab: MakeLab, own_redis: OwnServer) -> None:
    """Their messages are acknowledged; the broker keeps what is owed, and any worker pays."""
    lab = make_lab(store=own_redis.url)
    tasks = lab.app.tasks
    keys = {name: uuid() for name in ("good", "bad", "step", "limited", "late", "notes")}
    with lab.worker(concurrency=4, env={"JOBS_PATIENCE": "1"}) as worker:
        jobs = [lab.sig("bare", "wait+return:x", key=keys["good"]), lab.sig("plain", "wait+raise:x", key=keys["bad"])]
        pending = lab.bus.batch(jobs).allow_failures().catch(tasks["note"].s("catch", keys["notes"]))
        batch = pending.finally_(tasks["note"].s("finally", keys["notes"])).dispatch()
        steps = [lab.sig("bare", "wait+raise:y", key=keys["step"]), lab.sig("plain", "return:x", key=uuid())]
        lab.bus.chain(steps).catch(tasks["note"].s("chain", keys["notes"])).dispatch()
        limited, _ = lab.send("tries1", "wait+return:done", key=keys["limited"])
        running = [keys[name] for name in ("good", "bad", "step", "limited")]
        for key in running:
            lab.wait_for(key, "runs")
        stop(own_redis)
        for key in running:
            lab.go_on(key)
        assert limited.get(timeout=30) == "done"
        wait_until(lambda: worker.log_text().count(KEPT) >= len(running), 40, message="every end is kept")
        late, _ = lab.send("tries1", "return:late", key=keys["late"])
        wait_until(lambda: late.state == "RETRY")
        assert lab.attempts(keys["late"]) == []

        own_redis.start()
        finished = batch.wait(timeout=40)
        assert (finished.total_jobs, finished.failed_jobs, finished.pending_jobs) == (2, 1, 0)
        assert late.get(timeout=40) == "late"
        lab.wait_for(keys["notes"], "notes", 3)
        wait_until(lambda: lab.bus.failed.count() == 2)
        assert {record.exception for record in lab.bus.failed.all()} == {"OSError: x", "OSError: y"}
        for key in running:
            assert lab.attempts(key) == [1], "what has ended does not run again"
        assert wait_until(lambda: not lab.bus.locks.all())


def test_jobs_that_end_while_store_and_broker_are_away_keep_their_outcome(
    make_lab: MakeLab, own_redis: OwnServer
) -> None:
    """One Redis is both, as it is where nothing is said; the processes that ran the jobs wait for it."""
    lab = make_lab(broker=own_redis.url, store=own_redis.url)
    keys = [uuid(), uuid()]
    with lab.worker(env={"JOBS_PATIENCE": "1"}) as worker:
        batch = lab.bus.batch([lab.sig("bare", "wait+return:x", key=key) for key in keys]).dispatch()
        for key in keys:
            lab.wait_for(key, "runs")
        stop(own_redis)
        for key in keys:
            lab.go_on(key)
        worker.wait_for_log("neither the store")
        own_redis.start()
        finished = batch.wait(timeout=40)
        assert (finished.total_jobs, finished.failed_jobs, finished.pending_jobs) == (2, 0, 0)
        assert [lab.attempts(key) for key in keys] == [[1], [1]]


def test_a_step_that_ends_while_the_broker_is_away_has_its_chain_go_on(make_lab: MakeLab, own_redis: OwnServer) -> None:
    lab = make_lab(broker=own_redis.url, task_publish_retry_policy={"max_retries": 0})
    key = uuid()
    steps = [lab.sig("tries3", "wait+return:x", key=key), lab.app.tasks["note"].si("next", key)]
    with lab.worker() as worker:
        lab.bus.chain(steps).catch(lab.app.tasks["note"].s("caught", key)).dispatch()
        lab.wait_for(key, "runs")
        stop(own_redis)
        lab.go_on(key)
        worker.wait_for_log("waits for the broker to send note", 60)
        own_redis.start()
        assert lab.wait_for(key, "notes", timeout=60) == [["'next'"]]
        wait_until(lambda: not lab.bus.locks.all())
    assert lab.attempts(key) == [1]
    assert lab.bus.failed.count() == 0
