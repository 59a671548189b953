"""What a worker does for packs: a look at them every now and then."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery_laravel.bootsteps.timed import TimedStep
from celery_laravel.telling import Telling
from celery_laravel.worker.pack_request import look_after_packs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

logger = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two looks: so much later a hard limit may strike, or a revocation reach a pack. A look costs nothing
while there is no pack, and never asks the store."""


class Packs(TimedStep):
    """Looks after the packs in the worker."""

    def __init__(self, consumer: Any, **_: Any) -> None:
        super().__init__(consumer)
        self._telling = Telling(logger, "Packs", "looked after")

    def calls(self) -> Sequence[tuple[float, Callable[[Celery], None]]]:
        """A look."""
        return [(INTERVAL, self._look)]

    def _look(self, _app: Celery) -> None:
        with self._telling.once():
            look_after_packs()
