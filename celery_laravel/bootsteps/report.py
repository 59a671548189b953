"""Lets a worker tell of itself, for ``celery -A app laravel doctor``."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker.control import Panel

from celery_laravel.worker.report import COMMAND, report


class Report(bootsteps.StartStopStep):
    """Adds a remote control command to this worker's."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        Panel.register(report, name=COMMAND, type="inspect")
