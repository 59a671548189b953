"""Threads that work in the background, under names by which people find them in a dump."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def background(work: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread that ends with its process at the latest.

    Whoever keeps the answer knows of a thread that runs, and of no other: the
    next one who needs it tries again.

    Raises:
        RuntimeError: The machine has no room for another thread.
    """
    thread = threading.Thread(target=work, name=f"celery-laravel-{name}", daemon=True)
    thread.start()
    return thread
