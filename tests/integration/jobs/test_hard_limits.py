"""A hard time limit strikes, or the process is lost, when the job's code has succeeded already."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest
from billiard.exceptions import TimeLimitExceeded
from celery.utils import uuid

from celery_laravel.stores.factory import store_of
from celery_laravel.testing.processes import wait_until
from tests.chaos.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.jobs.conftest import MakeLab

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

KEPT = "the broker keeps that until the store is back"
LIMIT = 10
"""Seconds: long enough for all the jobs to be told to go on, on a machine that is busy."""


@pytest.fixture
def way_to(server_url: Callable[[str], str]) -> Iterator[Callable[[str], tuple[str, Proxy]]]:
    """A function that gives the URL of a server's area behind a proxy, and the proxy."""
    proxies: list[Proxy] = []

    def make(kind: str) -> tuple[str, Proxy]:
        parts = urlsplit(server_url(kind))
        proxy = Proxy(parts.port or 6379, parts.hostname or "127.0.0.1")
        proxies.append(proxy)
        login = parts.netloc.rpartition("@")[0]
        place = f"127.0.0.1:{proxy.port}"
        return urlunsplit(parts._replace(netloc=f"{login}@{place}" if login else place)), proxy

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.mark.parametrize("kind", ["redis", "postgresql", "mariadb"])
def test_a_job_that_has_succeeded_is_no_failure_when_its_limit_strikes_while_it_waits_for_the_store(
    make_lab: MakeLab, way_to: Callable[[str], tuple[str, Proxy]], kind: str
) -> None:
    store, proxy = way_to(kind)
    lab = make_lab(store=store)
    if kind != "redis":
        store_of(lab.app).migrate()  # type: ignore[attr-defined]  # the tables of SQL stores alone
    names = ("member", "step", "next", "unique", "limited", "quiet")
    keys, notes = {name: uuid() for name in names}, uuid()
    note = lab.app.tasks["note"]

    def limited(task: str, name: str) -> object:
        return lab.sig(task, "wait+return:done", key=keys[name]).set(time_limit=LIMIT)

    with lab.worker(concurrency=5, env={"JOBS_SIGNALS": "1", "JOBS_PATIENCE": "60"}) as worker:
        jobs = [limited("bare", "member"), lab.sig("plain", "return:x", key=uuid())]
        pending = lab.bus.batch(jobs).then(note.s("then", notes)).catch(note.s("catch", notes))
        batch = pending.finally_(note.s("finally", notes)).dispatch()
        steps = [limited("plain", "step"), lab.sig("plain", "return:x", key=keys["next"])]
        lab.bus.chain(steps).catch(note.s("chain", notes)).dispatch()
        results = {
            name: lab.send(task, "wait+return:done", key=keys[name], time_limit=LIMIT)[0]
            for name, task in (("unique", "unique"), ("limited", "tries1"))
        }
        quiet, _ = lab.send("tries1", "wait+return:done", key=keys["quiet"], time_limit=LIMIT, ignore_result=True)
        running = [name for name in names if name != "next"]
        for name in running:
            lab.wait_for(keys[name], "runs")
        with proxy.refusing():
            for name in running:
                lab.go_on(keys[name])
            wait_until(lambda: worker.log_text().count(KEPT) >= len(running), 60, message="every end is kept")
        assert worker.log_text().count("had succeeded before this: TimeLimitExceeded") == len(running)

        finished = batch.wait(timeout=60)
        assert (finished.total_jobs, finished.failed_jobs, finished.pending_jobs) == (2, 0, 0)
        lab.wait_for(notes, "notes", 2)
        lab.wait_for(keys["next"], "runs", timeout=60)
        assert {name: result.get(timeout=10) for name, result in results.items()} == dict.fromkeys(results, "done")
        wait_until(lambda: not lab.bus.locks.all(), 30, message="the unique lock is free")
        wait_until(lambda: "job_processed" in lab.written(quiet.id, "signals"), 30)
        assert lab.send("unique", "return:again", key=keys["unique"])[0].get(timeout=30) == "again"
        for name in running:
            assert lab.attempts(keys[name])[:1] == [1]
            times = 2 if name == "unique" else 1
            assert len(lab.attempts(keys[name])) == times, "what has succeeded is not run again"
            assert lab.written(keys[name], "failed") == []
        for result in (*results.values(), quiet):
            assert "job_failed" not in lab.written(result.id, "signals")
        assert not {"'chain'", "'catch'"} & {entry[0] for entry in lab.written(notes, "notes")}
        assert lab.bus.failed.all() == []


def test_a_limit_that_strikes_while_a_failure_is_written_down_calls_the_hook_no_second_time(
    make_lab: MakeLab, way_to: Callable[[str], tuple[str, Proxy]]
) -> None:
    store, proxy = way_to("redis")
    lab = make_lab(store=store)
    with lab.worker(env={"JOBS_SIGNALS": "1", "JOBS_PATIENCE": "60"}):
        result, key = lab.send("tries1", "wait+raise:x", time_limit=LIMIT)
        lab.wait_for(key, "runs")
        with proxy.refusing():
            lab.go_on(key)
            lab.wait_for(key, "failed")
            with pytest.raises(TimeLimitExceeded):
                result.get(timeout=60)
        wait_until(lambda: lab.bus.failed.find(result.id), 60)
        wait_until(lambda: "job_failed" in lab.written(result.id, "signals"), 60)
        assert lab.send("plain", "return:alive")[0].get(timeout=30) == "alive"
        assert lab.written(key, "failed") == ["OSError: x"]
        assert lab.written(result.id, "signals").count("job_failed") == 1
        assert lab.attempts(key) == [1]


@pytest.mark.parametrize("action", ["raise:x", "release:0", "retry"])
def test_a_limit_that_strikes_when_the_job_has_put_itself_back_does_not_fail_it(make_lab: MakeLab, action: str) -> None:
    lab = make_lab()
    with lab.worker(env={"JOBS_SIGNALS": "1"}) as worker:
        result, key = lab.send("slow_to_retry", action, time_limit=5)
        lab.wait_for(key, "retries")
        worker.wait_for_log("had been put back before this")
        wait_until(lambda: result.state == "SUCCESS", message="the next attempt's result")
        assert lab.send("bare", "return:alive")[0].get(timeout=30) == "alive"
        assert len(lab.written(key, "runs")) == 2
        assert lab.bus.failed.all() == []
        assert "job_failed" not in lab.written(result.id, "signals")


def test_a_job_whose_process_dies_after_its_success_is_none_that_was_lost(
    make_lab: MakeLab, way_to: Callable[[str], tuple[str, Proxy]]
) -> None:
    """Though no result is stored that could tell."""
    store, proxy = way_to("redis")
    lab = make_lab(store=store)
    with lab.worker(env={"JOBS_SIGNALS": "1", "JOBS_PATIENCE": "60"}) as worker:
        result, key = lab.send("tries1", "wait+return:done", ignore_result=True)
        (run,) = lab.wait_for(key, "runs")
        with proxy.refusing():
            lab.go_on(key)
            worker.wait_for_log(f"[{result.id}] succeeded")
            os.kill(run["pid"], signal.SIGKILL)
            worker.wait_for_log("had succeeded before this: WorkerLostError")
        wait_until(lambda: "job_processed" in lab.written(result.id, "signals"), 60)
        assert lab.send("plain", "return:alive")[0].get(timeout=30) == "alive"
        assert (lab.attempts(key), lab.written(key, "failed")) == ([1], [])
        assert lab.bus.failed.all() == []
