"""What a worker does for packs: a look at them every now and then."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps

from celery_laravel.bootsteps.telling import Telling
from celery_laravel.worker.pack_request import look_after_packs

logger = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two looks: so much later a hard limit may strike, or a revocation reach a pack. A look costs nothing
while there is no pack, and never asks the store."""


class Packs(bootsteps.StartStopStep):
    """Looks after the packs in the worker on the consumer's timer, in the worker's parent."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        self._timer_entry: Any = None
        self._telling = Telling(logger, "Packs", "looked after")

    def start(self, consumer: Any) -> None:
        """Begin to look."""
        self._timer_entry = consumer.timer.call_repeatedly(INTERVAL, self._look)

    def stop(self, consumer: Any) -> None:
        """Look no more."""
        if self._timer_entry is not None:
            self._timer_entry.cancel()
            self._timer_entry = None

    def _look(self) -> None:
        with self._telling.once():
            look_after_packs()
