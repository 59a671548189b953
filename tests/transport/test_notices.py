"""The thread that hears of new messages, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Consumer, Queue
from kombu.asynchronous import Hub

from celery_laravel.testing.processes import wait_until
from celery_laravel.transport.database import notices
from celery_laravel.transport.database.notices import Listener
from tests.transport.conftest import postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence


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


PUBLISH = """
import sys, time
from kombu import Connection
from celery_laravel.transport import register

register()
with Connection(sys.argv[1]) as connection:
    producer = connection.Producer()
    for _ in sys.stdin:
        producer.publish(time.time(), routing_key="jobs")
"""


class Loop:
    """A consumer in an event loop that looks by itself every 30 seconds."""

    def __init__(self, connection: Connection) -> None:
        self.hub = Hub()
        self.seen: list[tuple[float, float]] = []
        self.connection = connection
        connection.connect()
        connection.register_with_event_loop(self.hub)

    def on_message(self, message: Any) -> None:
        self.seen.append((message.payload, time.time()))
        message.ack()

    def run(self, until: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        timer = self.hub.call_later(seconds, lambda: None)  # the loop sleeps no longer than that
        while not until() and time.monotonic() < end:
            self.hub.run_once()
        timer.cancel()
        assert until()


@pytest.mark.postgresql
class TestOnPostgreSQL:
    @pytest.fixture
    def broker_url(self, request: pytest.FixtureRequest) -> Iterator[str]:
        with postgresql(request) as url:
            yield url

    @pytest.fixture
    def loop(self, connect: Callable[..., Connection]) -> Iterator[Loop]:
        loop = Loop(connect(polling_interval=30))
        with Consumer(loop.connection, [Queue("jobs")], on_message=loop.on_message):
            loop.run(lambda: loop.connection.transport.database.news.is_listening, 30)
            yield loop
        loop.connection.close()
        loop.hub.close()

    @pytest.mark.parametrize("sender", ["this connection", "another connection", "another process"])
    def test_a_message_is_delivered_as_soon_as_it_is_published(
        self, loop: Loop, connect: Callable[..., Connection], broker_url: str, sender: str
    ) -> None:
        with subprocess.Popen([sys.executable, "-c", PUBLISH, broker_url], stdin=subprocess.PIPE, text=True) as process:
            connection = loop.connection if sender == "this connection" else connect()
            for count in range(1, 4):
                if sender == "another process":
                    print("publish", file=process.stdin, flush=True)
                else:
                    connection.Producer().publish(time.time(), routing_key="jobs")
                loop.run(lambda count=count: len(loop.seen) == count, 25 if count == 1 else 2)  # type: ignore[misc]
            process.communicate()
        assert process.returncode == 0
        assert all(came - published < 2 for published, came in loop.seen)
