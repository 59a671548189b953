"""A pool of somebody's own, which the library does not know; ``-P custom`` is it by `CELERY_CUSTOM_WORKER_POOL`."""

from __future__ import annotations

from celery.concurrency.solo import TaskPool


class OwnPool(TaskPool):
    """Celery's solo pool under a name that the library does not know."""
