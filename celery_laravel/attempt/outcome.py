"""How an attempt ends: one value, whatever happened in it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Succeeded:
    """The code, or the middleware that ended the attempt, returned ``value``."""

    value: Any = None


@dataclass(frozen=True)
class Deleted:
    """The job called ``delete()``: done, whatever followed, and not a failure."""

    value: Any = None


@dataclass(frozen=True)
class Released:
    """The job goes back to its queue for another attempt after ``delay`` seconds.

    ``counts`` tells whether this attempt uses up one of its ``tries``;
    ``error`` is the exception that led here, None when the job released itself.
    """

    delay: float = 0.0
    counts: bool = True
    error: BaseException | None = None


@dataclass(frozen=True)
class Failed:
    """The job has failed for good with ``error``."""

    error: BaseException


@dataclass(frozen=True)
class PassedOn:
    """The code raised one of Celery's own signals (``Retry``, ``Ignore``, ``Reject``), which Celery acts upon."""

    error: BaseException


OUTAGE_WAIT = (5.0, 15.0)
"""Seconds, at least and at most, that a job waits for a store that cannot be used."""

Outcome = Succeeded | Deleted | Released | Failed | PassedOn


def outage_wait() -> float:
    """Seconds that one job waits for a store: spread, so that a returning store does not meet every one at once."""
    return random.uniform(*OUTAGE_WAIT)
