"""What a duration may be: seconds, or a timedelta."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

LONGEST = 1e11
"""Seconds in three thousand years. What ends later is no date of Python's, nor an instant that every store can keep."""


def is_seconds(value: Any) -> bool:
    """Whether a value can be a duration in seconds: a number from 0 to `LONGEST`."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LONGEST


def in_seconds(duration: Any) -> Any:
    """The seconds of a timedelta; anything else is given back as it is, to be checked or refused."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def is_duration(value: Any) -> bool:
    """Whether a value can be a duration: seconds or a timedelta, not negative."""
    return is_seconds(in_seconds(value))


def delay_in_seconds(given: Any) -> float:
    """The seconds of a delay that a user gave.

    Raises:
        ValueError: It is negative, or no duration.
    """
    seconds = in_seconds(given)
    if not is_seconds(seconds):
        raise ValueError(f"delay({given!r}): the delay must be seconds or a timedelta, not negative.")
    return float(seconds)
