"""The memory that a worker's parent shares with its children."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from celery_laravel.worker import endings, pack_slots


class SharedMemory(bootsteps.Step):
    """Makes the memory before the worker's pool does its children."""

    def __init__(self, worker: Any, **_: Any) -> None:
        endings.share()
        pack_slots.share()
