"""Renews the leases of the jobs that this worker's children run, and ends those of children that are gone.

A child renews its leases itself, from a thread; this one goes on where the
child's interpreter is blocked, for minutes maybe, by code that never comes
back to Python.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery_laravel.attempt import leases
from celery_laravel.bootsteps.timed import TimedStep
from celery_laravel.runtime import runtime_of
from celery_laravel.telling import Telling
from celery_laravel.worker.leases import gone, to_renew

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

logger = logging.getLogger(__name__)

_ENDED_INTERVAL = 1.0
"""Seconds between two looks for children that were told to end and have; a look asks the store nothing."""


class Leases(TimedStep):
    """Renews: two calls of the store, and none where no job is long."""

    def __init__(self, consumer: Any, **_: Any) -> None:
        super().__init__(consumer)
        self._telling = Telling(logger, "The leases of running jobs", "renewed")

    def calls(self) -> Sequence[tuple[float, Callable[[Celery], None]]]:
        """A round of renewals, and a look for children that are gone. While the consumer is away, children renew."""
        return [(leases.INTERVAL, self._renew), (_ENDED_INTERVAL, self._end_what_is_gone)]

    def _renew(self, app: Celery) -> None:
        """Renew once. A store that does not answer is logged once, and again when it answers."""
        owners, attempts = to_renew()
        runtime = runtime_of(app)
        if not (owners or attempts) or runtime.settings.store_is_untouched:
            return
        with self._telling.once():
            leases.renew(runtime.store, owners, attempts)

    def _end_what_is_gone(self, app: Celery) -> None:
        for request in gone():
            request.end_leases()
