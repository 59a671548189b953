"""The thread that tells a broker that this process is alive."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from kombu.log import get_logger

from celery_laravel.threads import background

if TYPE_CHECKING:
    from collections.abc import Callable

logger = get_logger(__name__)


class LeaseKeeper:
    """Call ``renew`` at an interval for as long as the process lives.

    A thread, and not a timer of the worker's loop: with the solo pool that loop
    stands still while a job runs, and a job that outlasts the visibility
    timeout is what leases are renewed for. ``renew`` may raise; that is logged,
    and the next round tries again.
    """

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew
        self._interval: float | None = None
        self._stopped = False
        self._forget_thread()

    def _forget_thread(self) -> None:
        self._pid = os.getpid()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, interval: float) -> None:
        """Renew every ``interval`` seconds from now on, or more often if asked to before.

        In a forked child too: the thread is the parent's.
        """
        if self._stopped:
            return
        if self._pid != os.getpid():
            self._forget_thread()
        if self._interval is None or interval < self._interval:
            self._interval = interval
            self._wake.set()
        if self._thread is None:
            self._thread = background(self._run, "leases")

    def stop(self) -> None:
        """Let the thread end, without waiting for it."""
        self._stopped = True
        self._wake.set()

    def _run(self) -> None:
        while not self._stopped:
            if self._wake.wait(self._interval):
                self._wake.clear()
                continue
            try:
                self._renew()
            except Exception:
                logger.warning("Could not renew the leases of messages; trying again", exc_info=True)
