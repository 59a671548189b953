"""Calls that are broken off, and those that are left alone."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from celery_laravel.stores.watch import Watch
from celery_laravel.testing.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT = 0.2


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection, of which the second says nothing; the first waits for ten seconds at most."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ours, theirs:
        yield ours, theirs


def waits_in_vain(watch: Watch, ours: socket.socket) -> None:
    with watch.over(ours.fileno()):
        assert ours.recv(1) == b"", "the end of the connection, as if the server had closed it"


def test_a_call_without_an_answer_is_broken_off(ends: tuple[socket.socket, socket.socket]) -> None:
    waits_in_vain(Watch(SHORT), ends[0])


def test_a_call_that_has_ended_is_left_alone(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    watch = Watch(SHORT)
    with watch.over(ours.fileno()):
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"
    wait_until(lambda: watch._is_idle, message="the watch to have nothing to watch")
    theirs.sendall(b"y")
    assert ours.recv(1) == b"y"


def test_a_watch_that_has_slept_wakes(ends: tuple[socket.socket, socket.socket]) -> None:
    watch = Watch(SHORT)
    with watch.over(ends[0].fileno()):
        pass
    wait_until(lambda: watch._is_idle, message="the watch to have nothing to watch")
    waits_in_vain(watch, ends[0])


def test_a_number_that_is_another_connection_by_now_is_left_alone(ends: tuple[socket.socket, socket.socket]) -> None:
    watch = Watch(SHORT)
    ours, theirs = socket.socketpair()
    with theirs, watch.over(ours.fileno()):
        number = ours.detach()
        os.dup2(ends[0].fileno(), number)
        wait_until(lambda: not watch._calls, message="the call to be over its time")
        ends[1].sendall(b"x")
        assert ends[0].recv(1) == b"x"
        os.close(number)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_watches_by_itself(ends: tuple[socket.socket, socket.socket]) -> None:
    watch = Watch(SHORT)
    waits_in_vain(watch, ends[0])
    pid = os.fork()
    if pid == 0:
        ours, _theirs = socket.socketpair()
        threading.Timer(8, os._exit, (1,)).start()
        with watch.over(ours.fileno()):
            os._exit(0 if ours.recv(1) == b"" else 1)
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert time.monotonic() - began < 8
