"""Jobs that may run for longer than their broker waits for the end of a job."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery_laravel.worker.defaults import defaults_of, timeout_of

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)


def warn_of_long_jobs(app: Celery) -> None:
    """Log the jobs that `long_jobs` finds."""
    visible_after, too_long = long_jobs(app)
    if too_long:
        logger.warning(
            "The broker delivers a job again that has run for %g s (its visibility timeout), which is not longer than "
            "the time limits of: %s. Set visibility_timeout in broker_transport_options to more than the longest.",
            visible_after,
            ", ".join(f"{name} ({limit:g} s)" for name, limit in too_long.items()),
        )


def long_jobs(app: Celery) -> tuple[float | None, dict[str, float]]:
    """The broker's visibility timeout, and the late-acknowledged tasks whose time limit is not shorter.

    Such a broker delivers a job again that still runs. There are none for one
    that has no such timeout (RabbitMQ), nor for those of this library, whose
    workers renew what they hold. Of a task's limits the hard one counts, as it
    ends the job for certain.
    """
    visible_after = visibility_timeout(app)
    if visible_after is None:
        return None, {}
    limits = {task.name: limit_of(app, task) for task in app.tasks.values() if task.acks_late}
    return visible_after, {
        name: limit for name, limit in sorted(limits.items()) if limit is not None and limit >= visible_after
    }


def visibility_timeout(app: Celery) -> float | None:
    """Seconds after which the app's broker delivers a job again that is not acknowledged, whether its worker lives.

    None where it waits for as long as the worker lives, or does not say.
    """
    connection = app.connection_for_read()
    transport = connection.get_transport_cls()
    if getattr(transport, "renews_what_it_holds", False):
        return None
    channel = getattr(transport, "Channel", None)
    found = [(connection.transport_options or {}).get("visibility_timeout")]
    found += [getattr(channel, name, None) for name in ("visibility_timeout", "default_visibility_timeout")]
    return next((float(value) for value in found if isinstance(value, (int, float)) and value > 0), None)


def limit_of(app: Celery, task: Any) -> float | None:
    """Seconds after which an attempt of a task is ended, or None: its hard time limit, else its timeout or soft one."""
    options = getattr(task, "job_options", None)
    timeout = None if options is None else timeout_of(options, defaults_of(app))
    hard = task.time_limit or app.conf.task_time_limit
    soft = timeout or task.soft_time_limit or app.conf.task_soft_time_limit
    limit = hard or soft
    return None if limit is None else float(limit)
