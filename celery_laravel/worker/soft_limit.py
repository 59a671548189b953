"""A soft time limit that a process sets itself, for one of several jobs in a message."""

from __future__ import annotations

import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def soft_limit(seconds: float | None, name: str) -> Iterator[None]:
    """Raise ``SoftTimeLimitExceeded`` in what runs within, once it has taken so long; None for no limit.

    For the main thread. It takes the process's one alarm clock (``SIGALRM``)
    meanwhile, and gives it back.
    """
    if not seconds:
        yield
        return
    ours = soft_limit.__wrapped__.__code__  # type: ignore[attr-defined]  # of functools.wraps

    def ring(_: int, frame: Any) -> None:
        if frame.f_code is ours:  # what ran within has just ended
            return
        logger.warning("Soft time limit (%ss) exceeded for %s", seconds, name)
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
