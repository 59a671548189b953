"""Sends the callbacks of batches that are owed: whoever was to send them died, or could not.

The step that counts a batch's last member records its callbacks as due in the
same breath; the marks are cleared when the callbacks have been published. What
stays due for `OVERDUE` is published again by any worker, under the same ids.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery_laravel.bootsteps.timed import TimedStep
from celery_laravel.runtime import runtime_of
from celery_laravel.telling import Telling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

logger = logging.getLogger(__name__)

OVERDUE = timedelta(seconds=10)
INTERVAL = 5.0
"""Seconds between two looks; a look is one call of the store."""


class DueCallbacks(TimedStep):
    """Looks for overdue callbacks."""

    def __init__(self, consumer: Any, **_: Any) -> None:
        super().__init__(consumer)
        self._telling = Telling(logger, "Overdue callbacks of batches", "looked for")

    def calls(self) -> Sequence[tuple[float, Callable[[Celery], None]]]:
        """A look."""
        return [(INTERVAL, self._look)]

    def _look(self, app: Celery) -> None:
        """One look. A store that does not answer is logged once, and again when it answers."""
        runtime = runtime_of(app)
        if runtime.settings.store_is_untouched:
            return
        with self._telling.once():
            runtime.callbacks.send_overdue(OVERDUE)
