"""Instants and durations as back ends keep them: whole microseconds, the instants since the epoch."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)
SECOND = 1_000_000
"""Microseconds."""


def as_microseconds(instant: datetime) -> int:
    """Exactly, which a float could not."""
    return (instant - EPOCH) // MICROSECOND


def as_datetime(microseconds: int) -> datetime:
    """An aware datetime in UTC."""
    return EPOCH + timedelta(microseconds=microseconds)


def known_instant(microseconds: int | None) -> datetime | None:
    """`as_datetime` of what may not have happened yet."""
    return None if microseconds is None else as_datetime(microseconds)
