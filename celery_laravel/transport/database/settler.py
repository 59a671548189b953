"""The thread that makes up for acknowledgements while a worker's event loop goes on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from kombu.log import get_logger

from celery_laravel.threads import background
from celery_laravel.transport.database.errors import DatabaseBrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = get_logger(__name__)


class Settler:
    """Call ``settle`` soon after each `wake`; those that come while it runs share the next call.

    What ``settle`` could not do stays owed, and is left to the thread that
    renews leases.
    """

    def __init__(self, settle: Callable[[], None]) -> None:
        self._settle = settle
        self._wake = threading.Event()
        self._stopped = False
        background(self._run, "acknowledgements")

    def wake(self) -> None:
        """Have ``settle`` called."""
        self._wake.set()

    def stop(self) -> None:
        """Let the thread end, without waiting for it."""
        self._stopped = True
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stopped:
                return
            try:
                self._settle()
            except DatabaseBrokerError as error:
                logger.warning("Could not acknowledge messages; trying again. %s", error)
            except Exception:
                logger.exception("Could not acknowledge messages; trying again")
