"""Members of a pack that have succeeded, counted together: many in one call of the store."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from celery.exceptions import SoftTimeLimitExceeded

from celery_laravel.telling import log_failure
from celery_laravel.threads import background

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

INTERVAL = 0.2
"""Seconds for which a success waits at most to be counted; a crash repeats the members that waited."""


class Tally:
    """Takes the indices of members, and counts those that have come together every `INTERVAL`.

    A thread of its own does so, since the next member may run for long. What
    cannot be counted is kept in ``waiting``, and tried again.
    """

    def __init__(self, count: Callable[[Sequence[int]], None], *, name: str) -> None:
        self._count = count
        self._name = name
        self.waiting: list[int] = []
        self._counting = threading.Lock()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, index: int) -> None:
        """Count a member soon. Its time limit does not hold for this, as its code has ended."""
        try:
            self._add(index)
        except SoftTimeLimitExceeded:  # the alarm rings once a member
            self._add(index)

    def _add(self, index: int) -> None:
        if index not in self.waiting[-1:]:
            self.waiting.append(index)
        if self._thread is None:
            self._thread = background(self._run, "tally")

    def close(self) -> None:
        """Count what waits, now.

        Raises:
            Exception: What the store raises; the members are not counted, or not known to be.
        """
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()
        self._count_waiting()

    def _run(self) -> None:
        is_failing = False
        while not self._is_over.wait(INTERVAL):
            try:
                self._count_waiting()
            except Exception as error:
                if not is_failing:
                    what = "Members of batch %s could not be counted; they will be tried again"
                    log_failure(logger, error, what, self._name)
                is_failing = True
            else:
                is_failing = False

    def _count_waiting(self) -> None:
        with self._counting:
            indices = self.waiting[:]
            if indices:
                self._count(indices)
                del self.waiting[: len(indices)]
