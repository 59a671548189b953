"""The thread that hears of new messages, and what it leaves behind."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_laravel.testing.processes import wait_until
from celery_laravel.transport.database import notices
from celery_laravel.transport.database.notices import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


class Quiet:
    """A connection on which nothing is ever heard, as through a pooler that lends it by the transaction."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def fileno(self) -> int:
        return self.reader

    def read(self) -> list[str]:
        return []

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Heard(Quiet):
    """One that brings back what was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def send(self, names: Sequence[str]) -> None:
        self.names.extend(names)
        os.write(self.writer, b"\0")

    def read(self) -> list[str]:
        with suppress(BlockingIOError):  # nothing has come
            os.read(self.reader, 1)
        names, self.names = self.names, []
        return names


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def hear(_names: Collection[str] | None) -> bool:
    return False


def listener_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "celery-laravel-notices"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs a list of the open files")
@pytest.mark.parametrize("make", [Quiet, Heard])
def test_stopping_leaves_nothing_open_whether_it_listens_or_gave_up(
    make: Callable[[], Quiet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time that a worker connects again there is another."""
    monkeypatch.setattr(notices, "PROOF_TIME", 0.05)
    before = descriptors()
    connection = make()
    send = connection.send if isinstance(connection, Heard) else hear
    listener = Listener(lambda: connection, send, hear)  # type: ignore[arg-type]  # what is sent goes nowhere
    if make is Heard:
        wait_until(lambda: listener.is_listening)
    else:
        wait_until(lambda: not listener_threads(), message="giving up")
    listener.stop()
    listener.stop()
    wait_until(lambda: not listener_threads())
    assert descriptors() == before
