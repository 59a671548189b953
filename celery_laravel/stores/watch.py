"""Calls that a server leaves without an answer: they are broken off, since drivers wait for one without end."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import AbstractContextManager, nullcontext, suppress

from celery_laravel.threads import background


class Watch:
    """Shuts the sockets of calls down that have taken longer than so many ``seconds``.

    The driver takes that for a lost connection, whichever driver it is. One
    thread a process watches over all calls; it begins with the first, and a fork
    begins another.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._calls: dict[_Call, None] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_idle = self._has_begun = False

    def over(self, descriptor: int | None) -> AbstractContextManager[None]:
        """Watch over a call on the socket of this descriptor; None cannot be watched over."""
        return nullcontext() if descriptor is None else _Call(self, descriptor)

    def add(self, call: _Call) -> None:
        """Break a call off when it has taken too long."""
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            if self._thread is None:
                self._thread = background(self._run, "watch")
            self._calls[call] = None
            self._has_begun = True
            if self._is_idle:
                self._changed.notify()

    def remove(self, call: _Call) -> None:
        """Leave a call alone that has ended."""
        with self._changed:
            self._calls.pop(call, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                self._break_off(time.monotonic())
                # Not woken by each call: one that begins while this sleeps is not due when it wakes by itself.
                first = next(iter(self._calls), None)
                self._is_idle = first is None and not self._has_begun
                self._has_begun = False
                seconds = self.seconds if first is None else max(0.0, first.deadline - time.monotonic())
                self._changed.wait(None if self._is_idle else seconds)

    def _break_off(self, now: float) -> None:
        """Break off the calls that are due; they were added in the order in which they are."""
        for call in list(self._calls):
            if call.deadline > now:
                return
            del self._calls[call]
            call.break_off()


class _Call(AbstractContextManager[None]):
    """One call: on which socket it is, and until when."""

    __slots__ = ("_descriptor", "_inode", "_watch", "deadline")

    def __init__(self, watch: Watch, descriptor: int) -> None:
        self._watch, self._descriptor = watch, descriptor

    def __enter__(self) -> None:
        self._inode = os.fstat(self._descriptor).st_ino
        self.deadline = time.monotonic() + self._watch.seconds
        self._watch.add(self)

    def __exit__(self, *_: object) -> None:
        self._watch.remove(self)

    def break_off(self) -> None:
        """Shut the socket down, if it is still the one that this number meant."""
        with (
            suppress(OSError),  # the driver has closed it, or the server has, which ends the call as well
            socket.fromfd(self._descriptor, socket.AF_INET, socket.SOCK_STREAM) as ours,
        ):
            if os.fstat(ours.fileno()).st_ino == self._inode:
                ours.shutdown(socket.SHUT_RDWR)
