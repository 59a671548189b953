"""What a middleware did to an attempt, told in one way: a line at debug level and a signal."""

from __future__ import annotations

import logging
from typing import Any

from celery_laravel import events

logger = logging.getLogger("celery_laravel.middleware")


def intervene(job: Any, middleware: Any, action: str, *, delay: float | None = None, detail: str = "") -> None:
    """Tell that a middleware keeps a job's code from running now, or ends the job.

    ``action`` is ``released``, ``skipped``, ``failed`` or ``deleted``; ``detail``
    is for people, such as the key that was busy. Costs next to nothing where
    nobody listens.

    The line reads: shop.backup[6f0b…] released for 12 s by RateLimited('backups'), key 42
    """
    if logger.isEnabledFor(logging.DEBUG):
        span = "" if delay is None else f" for {delay:g} s"
        more = f", {detail}" if detail else ""
        logger.debug("%s[%s] %s%s by %r%s", job.name, job.request.id, action, span, middleware, more)
    if events.job_intercepted.receivers:
        events.send(
            events.job_intercepted,
            job,
            task_id=job.request.id,
            args=job.request.args or (),
            kwargs=job.request.kwargs or {},
            middleware=middleware,
            action=action,
            delay=delay,
            detail=detail,
        )
