"""How the suite lets time pass: at once where the clock is ours, in short real waits where it is a server's."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol

from celery_laravel import clock
from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

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


class TooLateError(Exception):
    """A step of a scene came so late that it shows nothing."""


@dataclass
class Deadlines:
    """Says of the steps of a scene whether they were done in time; a clock of ours waits for them.

    The scene begins before its first step does, so that what is in time here
    is in time by the server's clock too.
    """

    advance: Advance
    begun: float = field(default_factory=time.monotonic)

    def __call__(self, shorts: float) -> None:
        """Go on if all that was done until now was done within so many ``short``.

        Raises:
            TooLateError: It was not.
        """
        if isinstance(self.advance, VirtualTime):
            return
        if time.monotonic() - self.begun >= shorts * self.advance.short.total_seconds():
            raise TooLateError


def in_time(advance: Advance, play: Callable[[str, Deadlines], None]) -> None:
    """Play a scene, and again from the beginning where the machine was too slow for one of its steps.

    It is given a name that it has for itself, and the `Deadlines` that it asks
    after each step that must be done by some instant, before it looks at what
    came of it.
    """
    for number in range(20):
        try:
            play(f"scene-{number}", Deadlines(advance))
        except TooLateError:
            continue
        return
    raise AssertionError("the machine is too slow for this scene")
