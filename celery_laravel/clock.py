"""The one place this library takes the time from.

Stores that live on a server use the server's clock instead, so that workers on
machines whose clocks differ agree.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone


def now() -> float:
    """Seconds since the epoch, never a monotonic reading: what is stored must make sense to another process."""
    return time.time()


def as_datetime(timestamp: float) -> datetime:
    """An aware datetime in UTC for a reading of `now`."""
    return datetime.fromtimestamp(timestamp, tz=timezone.utc)


def hours_ago(hours: float) -> datetime:
    """The instant so many hours before this one."""
    return as_datetime(now()) - timedelta(hours=hours)
