"""How a job's ``timeout`` is enforced in pools whose jobs share a process, where Celery enforces none.

In prefork Celery does it, by a signal to the child that runs the job. Here the
exception is raised by whatever switches between jobs: gevent and eventlet raise it in
the job's greenlet; for threads, a thread of ours asks the interpreter to raise
it in the job's thread. Neither interrupts code that does not come back to
Python, or that waits outside of what the pool switches: the exception is
raised when it does.
"""

from __future__ import annotations

import ctypes
import platform
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.imports import symbol_by_name

from celery_laravel.threads import background

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType

    LimitTime = Callable[[float], AbstractContextManager[Any]]

_TICK = 0.25
"""Seconds between two looks for threads that have run for too long."""
_IDLE = 30.0
"""Seconds after which the thread that looks ends for want of work."""


def limiter_of(pool: str) -> LimitTime | None:
    """What limits a block of code to so many seconds in a pool, given by its module; None where nothing does.

    The block is ended by `SoftTimeLimitExceeded`, as in prefork. Called in the
    worker that uses this pool.
    """
    name = pool.rpartition(".")[2]
    if name in {"gevent", "eventlet"}:
        timeout_of_greenlet = symbol_by_name(f"{name}:Timeout")
        return lambda seconds: timeout_of_greenlet(seconds, SoftTimeLimitExceeded())
    if name in {"thread", "solo"} and platform.python_implementation() == "CPython":
        return ThreadLimit
    return None


class ThreadLimit:
    """Limits a block of code that runs in this thread.

    Once the block has been left, the exception is not raised any more.
    """

    def __init__(self, seconds: float) -> None:
        self._watched = _Watched(threading.get_ident(), time.monotonic() + seconds)

    def __enter__(self) -> None:
        _watch.add(self._watched)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while True:
            try:
                _watch.remove(self._watched)
            except SoftTimeLimitExceeded:  # too late: the block has ended
                continue
            return


@dataclass(eq=False)
class _Watched:
    thread: int
    until: float


class _Watch:
    """A thread that ends what runs for too long; there while there is something to watch, and for a while after.

    Its lock is a plain one, which is freed whenever an exception comes; those
    of `threading` that are written in Python may not be.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: set[_Watched] = set()
        self._is_there = False

    def add(self, watched: _Watched) -> None:
        with self._lock:
            if not self._is_there:
                background(self._run, "timeouts")
                self._is_there = True
            self._watched.add(watched)

    def remove(self, watched: _Watched) -> None:
        """Watch no longer, and take back an exception that has not been raised yet."""
        with self._lock:
            self._watched.discard(watched)
        _raise_in(watched.thread, None)

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            time.sleep(_TICK)
            with self._lock:
                now = time.monotonic()
                if self._watched:
                    idle_since = now
                elif now - idle_since > _IDLE:
                    self._is_there = False
                    return
                for watched in [each for each in self._watched if each.until <= now]:
                    self._watched.discard(watched)
                    _raise_in(watched.thread, SoftTimeLimitExceeded)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have an exception raised in a thread, between two of its steps; None takes back one that has not been."""
    what = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)


_watch = _Watch()
