"""What becomes of a job whose middleware cannot reach the store: it waits, and does not run without lock or limit."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery_laravel.attempt.outcome import outage_wait
from celery_laravel.attempt.running_job import running_of
from celery_laravel.middleware.intervention import intervene

if TYPE_CHECKING:
    from celery_laravel.errors import StoreUnavailableError

logger = logging.getLogger("celery_laravel.middleware")


def put_back_for_store(job: Any, middleware: Any, error: StoreUnavailableError) -> None:
    """Put a job back, free of charge, because the store does not answer its middleware; call it in ``except``.

    The job waits as long as an `outage_wait`. One that runs in its caller has no queue to
    wait in: the error is raised again.

    Raises:
        StoreUnavailableError: The job runs in its caller or eagerly.
    """
    if running_of(job).is_sync or job.request.is_eager:
        raise error
    delay = outage_wait()
    logger.error("Job %s (%s) is put back for %.0f s by %r: %s", job.request.id, job.name, delay, middleware, error)
    intervene(job, middleware, "released", delay=delay, detail="the store does not answer")
    job.release(delay, count_attempt=False)
