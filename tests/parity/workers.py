"""Workers that take turns: each has a thread of its own, and only one thread runs at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


class Unwound(BaseException):
    """Raised inside a worker that stands still when the scenario is over, so that its thread ends."""


@dataclass(eq=False)
class Worker:
    """A worker's options, and the thread that it works in."""

    name: str
    queues: list[str]
    tries: int
    backoff: float
    max_jobs: int | None

    def __post_init__(self) -> None:
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.stands_still = self.is_paused = False
        self._is_unwound = False

    def start(self, work: Callable[[], None]) -> None:
        """Let it work until it ends or stands still; raise what its work raised."""

        def body() -> None:
            try:
                work()
            except Unwound:
                pass
            except BaseException as error:
                self._error = error
            finally:
                self._back.release()

        self._thread = threading.Thread(target=body, name=self.name, daemon=True)
        self._thread.start()
        self._wait()

    def go_on(self) -> None:
        """Let it work on where it stood still."""
        self.stands_still = False
        self._turn.release()
        self._wait()

    def stand_still(self) -> None:
        """Give the turn back; called by the worker itself. It returns when the worker may go on."""
        self.stands_still = True
        self._back.release()
        self._turn.acquire()
        if self._is_unwound:
            raise Unwound

    def end(self) -> None:
        """End its thread, whatever it stands in."""
        while self.stands_still:
            self._is_unwound = True
            self.go_on()

    def _wait(self) -> None:
        self._back.acquire()
        if self._thread is not None and not self.stands_still:
            self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
