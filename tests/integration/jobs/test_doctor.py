"""The doctor with real workers: what is killed or missing is what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from celery.utils import uuid
from click.testing import CliRunner

from celery_laravel import install
from celery_laravel.cli.main import laravel
from celery_laravel.operations.doctor import examine
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import MemberEnd, MemberState, NewBatch
from celery_laravel.testing.processes import wait_until
from tests.integration.jobs.conftest import Lab, MakeLab
from tests.support import locks_app
from tests.support.worker import running_worker

pytestmark = [pytest.mark.redis, pytest.mark.matrix]

OF_THE_SERVER = {"not-persistent", "snapshots-only", "eviction"}
"""What may be said of the Redis that the tests happen to have."""


def doctor(lab: Lab, *arguments: str) -> dict[str, Any]:
    """What the doctor says, and its exit code under ``code``."""
    context = CLIContext(app=lab.app, no_color=False, workdir=None)
    result = CliRunner().invoke(laravel, ["doctor", "--json", "--timeout", "1", *arguments], obj=context)
    assert result.stdout, result.stderr
    said: dict[str, Any] = json.loads(result.stdout)
    said["findings"] = [finding for finding in said["findings"] if finding["check"] not in OF_THE_SERVER]
    problems = [finding for finding in said["findings"] if finding["level"] == "problem"]
    if problems:
        assert result.exit_code == 1
    return said


def checks(said: dict[str, Any]) -> list[str]:
    return [finding["check"] for finding in said["findings"]]


@pytest.fixture
def own_lab(make_lab: MakeLab) -> Iterator[Lab]:
    """A lab whose workers the test starts and kills."""
    lab = make_lab()
    yield lab
    lab.app.control.purge()


def test_what_is_fine_and_what_is_stuck_with_a_worker(lab: Lab):
    batches = store_of(lab.app).batches
    said = doctor(lab)
    assert checks(said) == []
    (worker,) = said["workers"]
    assert worker["is_installed"]
    assert worker["version"]
    assert lab.places["queue"] in worker["queues"]

    key = uuid()
    running = lab.bus.batch([lab.sig("tries3", "wait", key=key)]).dispatch()
    lab.wait_for(key, "runs")
    said = doctor(lab, "--batch", running.id)
    assert checks(said) == ["goes-on"]
    assert f"1 at {worker['name']}" in said["findings"][0]["problem"]
    lab.go_on(key)
    running.wait(timeout=30)
    assert checks(doctor(lab, "--batch", running.id)) == ["finished"]

    key = uuid()
    jobs = [lab.sig("tries3", "wait", key=key), lab.sig("tries3", "return", key=uuid())]
    packed = lab.bus.batch(jobs).pack(10).dispatch()
    lab.wait_for(key, "runs")
    said = doctor(lab, "--batch", packed.id)
    assert checks(said) == ["goes-on"]
    assert f"2 at {worker['name']}" in said["findings"][0]["problem"]
    lab.go_on(key)
    packed.wait(timeout=30)

    batches.create(NewBatch("lost"))  # as if its message had been lost
    batches.add("lost", 1)
    batches.close("lost")
    assert checks(doctor(lab, "--batch", "lost")) == ["not-delivered"]
    batches.create(NewBatch("open"))  # as if its dispatcher had been killed
    assert checks(doctor(lab, "--batch", "open")) == ["never-closed"]
    assert sorted(checks(doctor(lab, "--older-than", "0"))) == ["never-closed", "not-delivered"]
    assert checks(doctor(lab)) == [], "both are young"
    for batch_id in ("lost", "open"):
        batches.delete(batch_id)


def test_a_worker_that_was_killed_in_the_middle(own_lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("celery_laravel.operations.doctor.batches._OVERDUE", timedelta())
    locks_app.declare(own_lab.app)
    key, noted, lock = uuid(), uuid(), uuid()
    with own_lab.worker(app="tests.support.locks_app") as worker:
        jobs = [own_lab.sig("tries3", "wait", key=key)]
        batch = own_lab.bus.batch(jobs).finally_(own_lab.app.signature("note", args=(noted,))).dispatch()
        guarded = own_lab.app.tasks["guarded"].delay(lock, "wait", 30)
        own_lab.wait_for(key, "runs")
        own_lab.wait_for(lock, "runs")
        assert checks(doctor(own_lab)) == [], "its holder is alive"
        worker.kill()
        # As if it had died between counting the job and sending the callback.
        store_of(own_lab.app).batches.end_member(MemberEnd(batch.id, 0, "job", MemberState.SUCCEEDED))
        said = doctor(own_lab)
        assert checks(said) == ["no-worker", "callbacks-due", "abandoned-lease"]
        assert said["findings"][1]["batch_id"] == batch.id
        assert said["findings"][1]["since"]

        worker.restart()
        own_lab.wait_for(noted, "notes")
        wait_until(lambda: "callbacks-due" not in checks(doctor(own_lab)))
        own_lab.go_on(key)
        own_lab.go_on(guarded.id)


def test_a_worker_without_the_library(own_lab: Lab):
    places = own_lab.places
    env = {"BROKER_URL": places["broker"], "RESULT_BACKEND": places["backend"]}
    prefix = f"{places['queue']}:"
    env["BROKER_OPTIONS"] = json.dumps({"global_keyprefix": prefix})
    with running_worker("tests.support.ping_app", pool="solo", args=["-Q", places["queue"]], env=env) as worker:
        said = doctor(own_lab)
        assert checks(said) == ["worker-without-library"]
        assert worker.name in said["findings"][0]["problem"]
        own_lab.bus.batch([own_lab.sig("tries3", "return", key=uuid())]).dispatch()  # which it drops: no such task
        wait_until(lambda: "not-delivered" in checks(doctor(own_lab, "--older-than", "0")))


def test_a_server_that_may_forget(private_server: Any, make_lab: MakeLab):
    """Both as the store and as the broker, where these are two."""
    import redis

    server = private_server("redis")
    with redis.Redis.from_url(server.url) as client:
        client.config_set("save", "")
        client.config_set("appendonly", "no")
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
    lab = make_lab(store=server.url)
    context = CLIContext(app=lab.app, no_color=False, workdir=None)
    result = CliRunner().invoke(laravel, ["doctor", "--timeout", "0.2"], obj=context)
    assert result.exit_code == 1
    assert "keeps nothing on disk" in result.stdout
    assert "maxmemory-policy allkeys-lru" in result.stdout
    assert "to do: Set maxmemory-policy to noeviction" in result.stdout


@pytest.mark.postgresql
def test_tables_that_are_not_there(postgresql_url: str, redis_prefix: str):
    app = install(Celery("shop", broker="memory://", set_as_current=False))
    app.conf.update(laravel_store=postgresql_url, laravel_prefix=redis_prefix.replace("-", "_"))
    assert [finding.check for finding in examine(app, timeout=0.1).findings] == ["not-migrated", "no-worker"]
    store: Any = store_of(app)
    store.migrate()
    assert [finding.check for finding in examine(app, timeout=0.1).findings] == ["no-worker"]
    store.close()


def test_an_unknown_batch_is_an_error_that_names_close_ones(lab: Lab):
    context = CLIContext(app=lab.app, no_color=False, workdir=None)
    result = CliRunner().invoke(laravel, ["doctor", "--batch", "nobody"], obj=context)
    assert result.exit_code == 1
    assert "There is no batch 'nobody'." in result.stderr
