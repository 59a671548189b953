"""What follows a job that has succeeded, its next step and its links, waits for a broker that is away."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any

from celery._state import get_current_task
from kombu.exceptions import OperationalError

from celery_laravel.attempt.running_job import RUNNING

if TYPE_CHECKING:
    from celery_laravel.attempt.running_job import RunningJob

logger = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds for which a job tries to send what follows it. Then it has failed, as Celery says of it, too."""
_PAUSE = (0.5, 2.0)
"""Seconds, at least and at most, between two tries, on top of those that the connection itself makes."""


def wait_for_broker(send: Any, producer: Any, name: str, message: Any, *args: Any, **options: Any) -> Any:
    """Send a message; of one that follows a job which has succeeded, try that for as long as the broker is away.

    Celery sends the next step of a chain once the job's code has returned, and
    tries for a second or, on Redis, for some: a job that succeeded would fail
    because its broker was restarted. The process that ran it goes on trying
    instead, for `PATIENCE`. A message that is acknowledged late comes again,
    should the process be killed meanwhile. A send whose answer was lost is
    repeated, with the same id. Where ``task_publish_retry`` is off, or the
    dispatch says ``retry=False``, there is no waiting.
    """
    running = _succeeded()
    if running is None or not _may_repeat(options):
        return send(producer, name, message, *args, **options)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return send(producer, name, message, *args, **options)
        except OperationalError as error:
            if not _is_outage(producer, error) or time.monotonic() > end:
                raise
            logger.warning("Job %s has succeeded, and waits for the broker to send %s: %s", running.id, name, error)
        time.sleep(random.uniform(*_PAUSE))


def _succeeded() -> RunningJob | None:
    """The job of this thread that has succeeded and is not settled yet, which is when Celery sends what follows it."""
    task: Any = get_current_task()
    request = None if task is None else task.request_stack.top
    running: RunningJob | None = None if request is None else request.__dict__.get(RUNNING)
    return running if running is not None and running.is_followed else None


def _may_repeat(options: dict[str, Any]) -> bool:
    asked = options.get("retry")
    return bool(get_current_task().app.conf.task_publish_retry if asked is None else asked)


def _is_outage(producer: Any, error: OperationalError) -> bool:
    """Whether the connection was lost or could not be made, and not, say, a queue declared anew in another way."""
    transport = producer.connection.transport
    outages = getattr(transport, "recoverable_connection_errors", transport.connection_errors)
    return isinstance(error.__cause__, outages)
