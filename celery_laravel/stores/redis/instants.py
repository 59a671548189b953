"""Instants as the scripts have them: whole microseconds since the epoch."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)


def as_microseconds(instant: datetime) -> int:
    """Exactly, which a float could not."""
    return (instant - EPOCH) // MICROSECOND


def as_datetime(microseconds: int) -> datetime:
    """An aware datetime in UTC."""
    return EPOCH + timedelta(microseconds=microseconds)
