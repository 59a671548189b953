"""Tasks of the worker nodes; pytest-celery copies this module into them."""

from __future__ import annotations

from celery import shared_task


@shared_task
def double(number: int) -> int:
    return 2 * number
