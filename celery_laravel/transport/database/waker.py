"""Ending the sleep of a worker's event loop from another thread."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any


class Waker:
    """A pipe that the loop listens to.

    With the threads pool a job ends in a thread of its own, and the loop would
    sleep on although there is room for the next message. kombu's hub has had a
    waker of its own since 5.7 only.
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._is_open = True
        loop.add_reader(self._reader, self._drain)

    def wake(self) -> None:
        """End the loop's sleep; does nothing in the loop's own thread, which is awake."""
        if threading.get_ident() != self._loop_thread:
            self.turn_again()

    def turn_again(self) -> None:
        """Have the loop take another turn without sleeping before it."""
        with self._lock:
            if self._is_open and os.getpid() == self._pid:
                with suppress(BlockingIOError):  # full of wake-ups already
                    os.write(self._writer, b"\0")

    def close(self) -> None:
        """Take the pipe out of the loop; the second time changes nothing."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._loop.remove_reader(self._reader)
                os.close(self._reader)
                os.close(self._writer)

    def _drain(self) -> None:
        with suppress(BlockingIOError):  # nothing left
            while os.read(self._reader, 4096):
                pass
