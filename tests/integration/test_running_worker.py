from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest
from celery import Celery
from celery.utils import uuid

from celery_laravel.testing.processes import ProcessFailedError
from tests.support.worker import running_worker, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery.app.task import Task

APP = "tests.support.ping_app"


@pytest.fixture
def env(redis_url: str) -> dict[str, str]:
    return {"BROKER_URL": redis_url, "RESULT_BACKEND": redis_url}


@pytest.fixture
def queue() -> str:
    return f"queue-{uuid()}"


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("client", broker=redis_url, backend=redis_url, set_as_current=False)
    yield app
    app.close()


def task(app: Celery, name: str) -> Task:
    return app.signature(f"{APP}.{name}")


def test_it_works_and_leaves_no_process(app: Celery, env: dict[str, str], queue: str) -> None:
    with running_worker(APP, env=env, args=["-Q", queue]) as worker:
        assert task(app, "add").apply_async((2, 2), queue=queue).get(timeout=20) == 4
        assert app.control.inspect([worker.name]).ping() == {worker.name: {"ok": "pong"}}
        assert task(app, "pid").apply_async(queue=queue).get(timeout=20) in worker.children()
        pids = worker.pids()
        assert len(pids) >= 3
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


def test_a_kill_ends_the_whole_worker_at_once(env: dict[str, str], queue: str) -> None:
    with running_worker(APP, env=env, args=["-Q", queue]) as worker:
        wait_until(lambda: len(worker.children()) >= 2)
        worker.kill()
        assert worker.pids() == []
        assert worker.returncode == -signal.SIGKILL


def test_a_terminated_worker_shuts_down_warmly_and_can_be_started_again(
    app: Celery, env: dict[str, str], queue: str
) -> None:
    with running_worker(APP, env=env, args=["-Q", queue]) as worker:
        assert worker.terminate() == 0
        assert "Warm shutdown" in worker.log_text()
        result = task(app, "add").apply_async((1, 2), queue=queue)
        worker.restart()
        assert result.get(timeout=20) == 3


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_other_pools_work_in_the_main_process(pool: str, app: Celery, env: dict[str, str], queue: str) -> None:
    with running_worker(APP, pool=pool, env=env, args=["-Q", queue]) as worker:
        assert task(app, "pid").apply_async(queue=queue).get(timeout=20) == worker.pid


def test_a_worker_that_cannot_start_says_why(env: dict[str, str]) -> None:
    with pytest.raises(ProcessFailedError, match="no_such_app"), running_worker("no_such_app", env=env):
        pytest.fail("there is nothing to run")


def test_a_condition_that_does_not_come_true_is_a_timeout_with_its_reason() -> None:
    def wrong() -> bool:
        assert os.sep == "?"
        return True

    with pytest.raises(TimeoutError, match="in vain for the impossible") as caught:
        wait_until(wrong, 0.1, message="the impossible")
    assert isinstance(caught.value.__cause__, AssertionError)
