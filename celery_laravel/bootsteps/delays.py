"""Moves delayed jobs to their queues when they are due, and writes down which of them were revoked.

A thread does it, and not a timer of the worker's loop: the store and the
broker may take their time, during which the loop would stand still; and with
the solo pool the loop stands still while a job runs.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from functools import wraps
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from celery_laravel.operations.delayed import job_ids_of, revoke_waiting
from celery_laravel.settings import settings_of
from celery_laravel.telling import Telling
from celery_laravel.worker.delays import Mover

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks for what is due, each of them a call or two of the store."""
END = 5.0
"""Seconds for which a worker that stops waits for the round that is under way."""
_REVOKING = ("revoke", "terminate")


class Delays(bootsteps.StartStopStep):
    """Starts the thread with the consumer, and listens to what the worker is told to revoke."""

    requires = ("celery.worker.consumer.control:Control",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        self._thread: DelayThread | None = None

    def start(self, consumer: Any) -> None:
        """Begin to move."""
        self._thread = DelayThread(consumer.app)
        self._thread.start()
        for step in consumer.blueprint.order:
            node = getattr(getattr(step, "box", None), "node", None)
            if node is not None:
                _listen(node, lambda: self._thread)

    def stop(self, consumer: Any) -> None:
        """Move no more."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    shutdown = stop


class DelayThread(threading.Thread):
    """Looks for what is due again and again, and for what is to be revoked as soon as there is something."""

    def __init__(self, app: Celery) -> None:
        super().__init__(name="celery-laravel-delays", daemon=True)
        self._app = app
        self._mover = Mover(app)
        self._moving = Telling(logger, "Delayed jobs", "moved to their queues")
        self._revoking = Telling(logger, "Revoked jobs", "looked for among those that wait")
        self._to_revoke: deque[str] = deque()
        self._wake = threading.Event()
        self._is_over = False

    def revoke(self, job_ids: list[str]) -> None:
        """Mark jobs that wait as revoked, soon, and however long the store is away."""
        self._to_revoke.extend(job_ids)
        self._wake.set()

    def stop(self) -> None:
        """End, once the round that is under way is over."""
        self._is_over = True
        self._wake.set()
        self.join(END)

    def run(self) -> None:
        """Look until told to end."""
        while not self._is_over:
            self._wake.clear()
            has_more = False
            with self._revoking.once():
                self._mark_revoked()
            if not settings_of(self._app).store_is_untouched:
                with self._moving.once():
                    has_more = self._mover.move()
            if not has_more and not self._is_over:
                self._wake.wait(INTERVAL)
        self._mover.close()

    def _mark_revoked(self) -> None:
        while self._to_revoke:
            revoke_waiting(self._app, [self._to_revoke[0]])
            self._to_revoke.popleft()


def _listen(node: Any, thread: Callable[[], DelayThread | None]) -> None:
    """Learn of the commands that revoke jobs. The handlers are those of all workers of a process, hence the copy."""

    def listening(handler: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(handler)
        def handle(*args: Any, **arguments: Any) -> Any:
            current = thread()
            if current is not None:
                current.revoke(job_ids_of(arguments.get("task_id")))
            return handler(*args, **arguments)

        return handle

    if getattr(node, "celery_laravel_listens", None) is None:
        handlers = dict(node.handlers)
        node.handlers = {
            name: listening(handler) if name in _REVOKING else handler for name, handler in handlers.items()
        }
        node.celery_laravel_listens = True
