"""A pool of somebody's own, of which the library knows nothing; `CELERY_CUSTOM_WORKER_POOL` leads ``-P custom`` to it."""

from __future__ import annotations

from celery.concurrency.solo import TaskPool


class OwnPool(TaskPool):
    """Celery's solo pool under a name that the library does not know."""
