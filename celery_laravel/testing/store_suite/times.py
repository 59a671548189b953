"""How the suite lets time pass: at once where the clock is ours, in short real waits where it is a server's."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol

from celery_laravel import clock
from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    import pytest


class Advance(Protocol):
    """Lets an interval pass for a store, whichever clock it goes by.

    A test lets ``short`` pass, and takes for granted that ``long`` does not.
    """

    short: timedelta
    long: timedelta

    def __call__(self, interval: timedelta) -> None:
        """Return when the interval has passed."""


class VirtualTime:
    """Moves the clock of this process's stores, and stands still otherwise.

    For back ends that take the time from `celery_laravel.clock`.
    """

    short = timedelta(minutes=1)
    long = timedelta(days=1)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = int(time.time()) + 0.1234567  # an instant that no datetime meets exactly
        monkeypatch.setattr(clock, "time", SimpleNamespace(time=lambda: self._now))

    def __call__(self, interval: timedelta) -> None:
        """Set the clock forward."""
        self._now += interval.total_seconds()


class ServerTime:
    """Waits until a server's clock, which runs as fast as ours, has moved on."""

    short = timedelta(milliseconds=40)
    long = timedelta(hours=1)

    def __call__(self, interval: timedelta) -> None:
        """Wait in real time."""
        end = time.monotonic() + interval.total_seconds() + 0.005  # servers may count in milliseconds
        wait_until(lambda: time.monotonic() >= end, interval.total_seconds() + 5, interval=0.005)
