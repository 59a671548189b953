"""Unique and debounced jobs in real workers: canvas goes on, processes are killed, keys are free again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError
from celery.utils import uuid

from celery_laravel.stores.factory import store_of
from celery_laravel.testing.processes import wait_until
from tests.integration.jobs.conftest import Lab, MakeLab
from tests.support import unique_app
from tests.support.worker import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery 5.6 with a newer redis
]

APP = "tests.support.unique_app"


class Unique:
    """The jobs of one key, and what they have written down."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.key = lab, uuid()

    def send(self, task: str = "once", value: Any = None, how: str = "", **options: Any) -> Any:
        return self.task(task).apply_async((self.key, value, how), **options)

    def task(self, name: str = "once") -> Any:
        return self.lab.app.tasks[name]

    def sig(self, value: Any = None) -> Any:
        return self.task().si(self.key, value)

    def values(self) -> list[Any]:
        return [run["value"] for run in self.lab.written(self.key, "runs")]

    def is_free(self, task: str = "once") -> bool:
        return not self.lab.bus.locks.find(f"unique:{task}:{self.key}")

    def begun(self) -> set[str]:
        """The jobs that have begun; one that lost its worker and its lock waits while others of its key run."""
        return {job_id for edge, job_id in self.lab.written(self.key, "edges") if edge == "begin"}

    def wait_until_free(self, task: str = "once", timeout: float = 30) -> None:
        wait_until(lambda: self.is_free(task), timeout, message=f"{task} of {self.key} is free")


@pytest.fixture(scope="module", params=["redis", "database"])
def served(request: Any, make_lab: MakeLab, tmp_path_factory: Any) -> Iterator[Lab]:
    """A lab with a worker, whose results are in Redis or in a database."""
    folder: Path = tmp_path_factory.mktemp("results")
    conf = {} if request.param == "redis" else {"result_backend": f"db+sqlite:///{folder}/results.db"}
    lab = make_lab(**conf)
    unique_app.declare(lab.app)
    with lab.worker(app=APP):
        yield lab


@pytest.fixture
def held(served: Lab) -> Unique:
    """A key that a job holds which is far from being due."""
    unique = Unique(served)
    assert not unique.send("once", "held", countdown=3600).suppressed
    return unique


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    lab = make_lab()
    unique_app.declare(lab.app)
    return lab


@pytest.fixture(
    params=[
        "redis",
        pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.slow]),
        pytest.param("mariadb", marks=[pytest.mark.mariadb, pytest.mark.slow]),
    ]
)
def lab_of_a_store(request: Any, make_lab: MakeLab) -> Lab:
    """A lab whose store is any of those that machines share."""
    lab = make_lab(store=request.param)
    if request.param != "redis":
        store_of(lab.app).migrate()  # type: ignore[attr-defined]  # the tables of SQL stores alone
    unique_app.declare(lab.app)
    return lab


def listed(lab: Lab, *values: Any) -> Any:
    return lab.app.tasks["listed"].s(*values)


# -- canvas


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda once, say: chain(once, say("last")), [None, "last"]),
        (lambda once, say: chain(say("first"), once, say("last")), [None, "last"]),
        (lambda once, say: chain(say("first"), once), None),
        (lambda once, say: chain(once, once, say("last")), [None, "last"]),
        (lambda once, say: group(once, say("beside")), [None, ["beside"]]),
        (lambda once, say: group(chain(once, say("a")), say("b")), [[None, "a"], ["b"]]),
        (lambda once, say: chord([once, say("beside")], say("body")), [[None, ["beside"]], "body"]),
        (lambda once, say: chord([say("beside"), once], say("body")), [[["beside"], None], "body"]),
        (lambda once, say: chord([once, once], say("body")), [[None, None], "body"]),
        (lambda once, say: chord([say("a"), say("b")], once), None),
        (lambda once, say: chain(group(say("a"), once), say("last")), [[["a"], None], "last"]),
    ],
    ids=[
        "chain-first",
        "chain-middle",
        "chain-last",
        "chain-twice",
        "group",
        "chain-in-group",
        "chord-header-first",
        "chord-header-last",
        "chord-header-all",
        "chord-body",
        "group-in-chain",
    ],
)
def test_what_waits_for_a_suppressed_job_goes_on(served: Lab, held: Unique, make: Any, expected: Any) -> None:
    result = make(held.sig(), lambda value: listed(served, value)).apply_async()
    assert result.get(timeout=30) == expected
    assert held.values() == []


def test_what_a_suppressed_job_links_to_is_called(served: Lab, held: Unique) -> None:
    key = uuid()
    result = held.task().apply_async((held.key,), task_id=uuid(), link=served.app.tasks["note"].s(key))
    assert result.suppressed
    assert served.wait_for(key, "notes") == [["None"]]


def test_a_link_that_is_suppressed_leaves_its_job_alone(served: Lab, held: Unique) -> None:
    result = listed(served, "a").apply_async(link=held.sig())
    assert result.get(timeout=30) == ["a"]
    assert held.values() == []


def test_an_id_that_the_caller_gave_is_settled(served: Lab, held: Unique) -> None:
    own_id = uuid()
    result = held.send(task_id=own_id)
    assert result.suppressed
    assert result.id != own_id
    assert served.app.AsyncResult(own_id).get(timeout=30) is None


def test_every_step_of_a_chain_takes_the_lock_and_the_next_finds_it_free(served: Lab) -> None:
    unique = Unique(served)
    chain(unique.sig(1), unique.sig(2), unique.sig(3)).apply_async().get(timeout=30)
    assert unique.values() == [1, 2, 3]
    unique.wait_until_free()


def test_members_of_a_batch_all_run(served: Lab) -> None:
    unique = Unique(served)
    served.bus.batch([unique.sig(1), unique.sig(2), [unique.sig(3), unique.sig(4)]]).dispatch().wait(timeout=30)
    assert sorted(unique.values()) == [1, 2, 3, 4]


# -- one of a key


def test_of_many_dispatches_at_once_one_is_sent(lab_of_a_store: Lab) -> None:
    lab = lab_of_a_store
    unique = Unique(lab)
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda value: unique.send("once", value), range(64)))
    assert sum(not result.suppressed for result in results) == 1
    assert len({result.id for result in results}) == 1


def test_runs_of_a_key_never_overlap_whatever_dies(lab: Lab) -> None:
    """Dispatches without pause, workers killed as a whole: the beginnings and ends of runs alternate by job."""
    unique = Unique(lab)
    sent = 0
    with lab.worker("-c", "2", app=APP) as worker:
        for kills in range(4):
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                sent += not unique.send("once", sent).suppressed
            if kills < 3:
                worker.kill()
                lab.app.record.add(unique.key, "edges", ["killed", ""])
                worker.restart()
        wait_until(lambda: len(unique.begun()) >= sent, 60, message="every job that was sent has run")
        unique.wait_until_free()
    edges = unique.lab.written(unique.key, "edges")
    running = None
    for edge, job_id in edges:
        if edge == "begin":
            assert running in {None, job_id}, "another job begins while one runs"
            running = job_id
        else:
            assert edge == "killed" or running == job_id
            running = None
    assert len(unique.begun()) == sent


# -- kills


def dispatch_in_a_process(lab: Lab, task: str, key: str, dies_at: str) -> int:
    places = {f"JOBS_{name.upper()}": value for name, value in lab.places.items()}
    env = {**os.environ, **places, "JOBS_CONF": json.dumps(lab.conf), "UNIQUE_DIES_AT": dies_at}
    return subprocess.run([sys.executable, "-m", APP, task, key], env=env, cwd=ROOT, check=False).returncode


def test_a_process_that_is_killed_between_lock_and_message_blocks_the_key_for_a_lease_at_most(lab: Lab) -> None:
    unique = Unique(lab)
    assert dispatch_in_a_process(lab, "once", unique.key, "publish") == -signal.SIGKILL
    started = time.monotonic()
    assert unique.send().suppressed, "it held the lock when it died"
    wait_until(lambda: not unique.send().suppressed, timeout=unique_app.LEASE + 20)
    assert time.monotonic() - started >= unique_app.LEASE / 2


def test_a_child_that_is_killed_between_the_code_and_the_freeing_leaves_the_key_free(lab: Lab) -> None:
    unique = Unique(lab)
    with lab.worker("-c", "1", app=APP, env={"UNIQUE_DIES_AT": "release"}):
        result = unique.send("once", 1)
        unique.wait_until_free()
        assert result.get(timeout=30) == 1
    assert unique.values() == [1, 1], "its code runs again, as that of any job whose process died"


def test_a_worker_that_is_killed_blocks_a_key_for_a_lease_at_most(lab: Lab) -> None:
    """The job is acknowledged early, so it does not come again; nobody is left to free its lock."""
    unique = Unique(lab)
    with lab.worker("-c", "1", app=APP) as worker:
        unique.send("once_early", 1, "wait")
        lab.wait_for(unique.key, "runs")
        worker.kill()
        assert unique.send("once_early").suppressed
        wait_until(lambda: not unique.send("once_early").suppressed, timeout=unique_app.LEASE + 20)


def test_a_live_holder_keeps_its_lock_beyond_a_lease(lab_of_a_store: Lab) -> None:
    lab = lab_of_a_store
    unique = Unique(lab)
    with lab.worker("-c", "1", app=APP):
        result = unique.send("once", 1, "wait")
        lab.wait_for(unique.key, "runs")
        end = time.monotonic() + 2 * unique_app.LEASE
        while time.monotonic() < end:
            assert unique.send().suppressed
            time.sleep(0.1)
        lab.go_on(unique.key)
        assert result.get(timeout=30) == 1
        unique.wait_until_free()


@pytest.mark.parametrize("task", ["once", "once_early"])
def test_a_hard_time_limit_frees_the_key(lab: Lab, task: str) -> None:
    unique = Unique(lab)
    with lab.worker("-c", "1", app=APP):
        unique.send(task, 1, "wait", time_limit=1)
        unique.wait_until_free(task)
    assert unique.values() == [1]


@pytest.mark.parametrize("how", ["revoke", "terminate", "expire"])
def test_a_job_that_is_called_off_frees_the_key(lab: Lab, how: str) -> None:
    unique = Unique(lab)
    with lab.worker("-c", "1", app=APP) as worker:
        if how == "terminate":
            result = unique.send("once", 1, "wait")
            lab.wait_for(unique.key, "runs")
        else:
            result = unique.send("once", 1, countdown=2, expires=1 if how == "expire" else None)
        if how != "expire":
            lab.app.control.revoke(result.id, terminate=how == "terminate", destination=[worker.name])
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
        unique.wait_until_free()


def test_a_job_that_loses_its_process_each_time_fails_and_frees_the_key(lab: Lab) -> None:
    unique = Unique(lab)
    with lab.worker("-c", "1", app=APP):
        result = unique.send("once", 1, "die")
        wait_until(lambda: lab.bus.failed.find(result.id))
        unique.wait_until_free()
    assert unique.values() == [1, 1, 1]


# -- latest, debounced


def test_the_newest_arguments_run_after_the_job_that_runs(lab: Lab) -> None:
    unique = Unique(lab)
    with lab.worker("-c", "2", app=APP):
        unique.send("latest", 1, "wait")
        lab.wait_for(unique.key, "runs")
        results = [unique.send("latest", value) for value in range(2, 6)]
        lab.go_on(unique.key)
        assert results[0].get(timeout=30) == 5
    assert [result.suppressed for result in results] == [False, True, True, True]
    assert unique.values() == [1, 5]


def test_the_newest_arguments_survive_a_crash(lab_of_a_store: Lab) -> None:
    lab = lab_of_a_store
    unique = Unique(lab)
    with lab.worker("-c", "1", app=APP) as worker:
        unique.send("latest", 0, "wait")
        lab.wait_for(unique.key, "runs")
        result = unique.send("latest", 1)
        unique.send("latest", 2, "die")
        lab.go_on(unique.key)
        wait_until(lambda: lab.bus.failed.find(result.id), timeout=60)
        assert worker.is_running
    assert unique.values() == [0, 2, 2, 2]


def test_of_debounced_jobs_the_newest_runs(lab_of_a_store: Lab) -> None:
    lab = lab_of_a_store
    unique = Unique(lab)
    with lab.worker("-c", "1", app=APP):
        results = [unique.send("debounced", value) for value in range(5)]
        assert [result.get(timeout=30) for result in results] == [None, None, None, None, 4]
    assert unique.values() == [4]
