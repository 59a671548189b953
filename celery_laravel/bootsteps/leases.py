"""Renews the leases of the jobs that this worker's children run, and ends those of children that are gone.

A child renews its leases itself, from a thread; this one goes on where the
child's interpreter is blocked, for minutes maybe, by code that never comes
back to Python.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from celery_laravel.attempt import leases
from celery_laravel.bootsteps.telling import Telling
from celery_laravel.runtime import runtime_of
from celery_laravel.worker.leases import gone, to_renew

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

_ENDED_INTERVAL = 1.0
"""Seconds between two looks for children that were told to end and have; a look asks the store nothing."""


class Leases(bootsteps.StartStopStep):
    """Renews on the consumer's timer, in the worker's parent: two calls of the store, and none where no job is long."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        self._timer_entries: list[Any] = []
        self._telling = Telling(logger, "The leases of running jobs", "renewed")

    def start(self, consumer: Any) -> None:
        """Begin to renew."""
        timer, app = consumer.timer, (consumer.app,)
        self._timer_entries = [
            timer.call_repeatedly(leases.INTERVAL, self._renew, app),
            timer.call_repeatedly(_ENDED_INTERVAL, self._end_what_is_gone, app),
        ]

    def stop(self, consumer: Any) -> None:
        """Renew no longer. Children go on by themselves until the consumer is back."""
        for entry in self._timer_entries:
            entry.cancel()
        self._timer_entries = []

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
