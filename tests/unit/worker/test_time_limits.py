"""Timeouts where jobs share a process, and the lock that everybody there needs is not left behind."""

from __future__ import annotations

import threading
import time

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from celery_laravel.worker import time_limits
from celery_laravel.worker.time_limits import ThreadLimit, limiter_of


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limits, "_TICK", 0.001)
    monkeypatch.setattr(time_limits, "_watch", time_limits._Watch())


def spin(seconds: float) -> None:
    """Be busy in Python, where an exception can be raised."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_block_that_takes_too_long_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(SoftTimeLimitExceeded), ThreadLimit(0.05):
        spin(30)
    assert time.monotonic() - started < 20


def test_a_thread_that_has_left_its_block_is_left_alone() -> None:
    """However near the end of the block was to that of its time."""
    for number in range(300):
        try:
            with ThreadLimit(0.002):
                spin(0.001 + number % 3 * 0.001)
        except SoftTimeLimitExceeded:
            pass
        spin(0.0005)
    assert not time_limits._watch._lock.locked()


def test_each_thread_has_a_limit_of_its_own() -> None:
    ended: dict[str, bool] = {}

    def run(name: str, limit: float) -> None:
        try:
            with ThreadLimit(limit):
                spin(0.3)
            ended[name] = False
        except SoftTimeLimitExceeded:
            ended[name] = True

    threads = [threading.Thread(target=run, args=each) for each in (("short", 0.05), ("long", 60.0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ended == {"short": True, "long": False}


def test_the_watching_thread_ends_when_there_is_nothing_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limits, "_IDLE", 0.0)
    others = set(threading.enumerate())
    with ThreadLimit(60):
        (watching,) = set(threading.enumerate()) - others
    watching.join(30)
    assert not watching.is_alive()
    with pytest.raises(SoftTimeLimitExceeded), ThreadLimit(0.01):
        spin(30)


def test_a_pool_that_is_not_known_limits_nothing() -> None:
    assert limiter_of("somebody.pool") is None
    assert limiter_of("celery.concurrency.prefork") is None
    assert limiter_of("celery.concurrency.solo") is ThreadLimit
