"""The message that keeps a debt with the broker: what its store could not be told."""

SETTLE = "celery_laravel.settle"
"""The task that pays a debt which was handed to the broker."""
