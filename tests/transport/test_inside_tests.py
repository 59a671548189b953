"""Celery's worker inside the process of a test, on each broker."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from celery.contrib.testing.worker import start_worker

from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from celery import Celery

    from tests.transport.conftest import Contents


def names_of(threads: set[threading.Thread]) -> list[str]:
    """The library's threads; the one that watches over calls of SQL stores is the process's, and stays."""
    names = [thread.name for thread in threads if thread.name.startswith("celery-laravel")]
    return [name for name in names if name != "celery-laravel-watch"]


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_inside_a_test_works_and_is_gone_afterwards(app: Celery, contents: Contents, pool: str) -> None:
    app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)
    ran: list[int] = []

    @app.task(name="run", acks_late=True, shared=False)
    def run(number: int) -> None:
        ran.append(number)

    before = set(threading.enumerate())
    for _ in range(2):
        # The level stays set for the tests that follow; this one is the usual.
        with start_worker(app, pool=pool, concurrency=1, loglevel="warning", perform_ping_check=False):
            for number in range(20):
                run.delay(number)
            wait_until(lambda: len(ran) >= 20)
            wait_until(lambda: contents.left() == 0)
        assert sorted(ran) == [*range(20)]
        ran.clear()
    app.close()
    wait_until(lambda: names_of(set(threading.enumerate()) - before) == [], message="the end of the library's threads")
