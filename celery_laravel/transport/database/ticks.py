"""Time cut into equal parts."""

from __future__ import annotations

import time


class Ticks:
    """Count how many parts of ``interval`` seconds have begun."""

    def __init__(self, interval: float) -> None:
        self._interval = interval

    def now(self) -> int:
        """A number that changes every ``interval`` seconds."""
        return int(time.monotonic() / self._interval)
