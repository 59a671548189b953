r"""When a job may be tried, and how an attempt ends: pure functions of what they are given.

The rules are those of Laravel's `Illuminate\Queue\Worker` (a deadline takes the
place of the number of attempts, exceptions have a limit of their own), with one
difference: an attempt has exactly one outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery_laravel.attempt.outcome import Deleted, Failed, Outcome, Released, Succeeded
from celery_laravel.message.durations import in_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Limits:
    """How often a job may be tried.

    ``tries``: attempts allowed, 0 for no limit, None where only Celery retries.
    ``max_exceptions``: unhandled exceptions after which it fails. ``deadline``:
    an instant in seconds since the epoch, which takes the place of ``tries``.
    """

    tries: int | None = None
    max_exceptions: int | None = None
    deadline: float | None = None
    fail_on_timeout: bool = False

    @property
    def are_none(self) -> bool:
        """Whether nothing says how often the job may be tried."""
        return self.tries is None and self.max_exceptions is None and self.deadline is None


@dataclass(frozen=True)
class Counts:
    """The number of this attempt, from 1, and the exceptions before it."""

    attempt: int
    exceptions: int = 0


@dataclass
class Verdict:
    """What an attempt said of itself. ``fail`` and ``delete`` are final; of several releases the last one holds."""

    failure: BaseException | None = None
    deleted: bool = False
    release: Released | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing that follows can change the outcome any more."""
        return self.failure is not None or self.deleted


def may_start(limits: Limits, attempt: int, *, now: float) -> bool:
    """Whether a job that was picked up for its ``attempt``-th time may run at all.

    >>> may_start(Limits(tries=3), 3, now=0.0), may_start(Limits(tries=3), 4, now=0.0)
    (True, False)
    >>> may_start(Limits(tries=1, deadline=10.0), 5, now=9.0)
    True
    """
    if limits.deadline is not None:
        return now <= limits.deadline
    return not limits.tries or attempt <= limits.tries


def decide(
    limits: Limits,
    counts: Counts,
    verdict: Verdict,
    *,
    value: Any = None,
    error: BaseException | None = None,
    timed_out: bool = False,
    now: float,
    backoff: Callable[[int, BaseException], float],
) -> Outcome:
    """Say how an attempt ends that returned ``value`` or raised ``error``.

    ``fail()`` and ``delete()`` win over whatever came after them; an exception
    wins over ``release()``, which then only lends its delay. ``backoff`` is asked
    for a delay only when there is to be another attempt and none was given.

    >>> decide(Limits(tries=2), Counts(1), Verdict(), error=OSError(), now=0.0, backoff=lambda attempt, error: 5.0)
    Released(delay=5.0, counts=True, error=OSError())
    >>> decide(Limits(tries=2), Counts(2), Verdict(), error=OSError(), now=0.0, backoff=lambda attempt, error: 5.0)
    Failed(error=OSError())
    """
    if verdict.failure is not None:
        return Failed(verdict.failure)
    if verdict.deleted:
        return Deleted(value)
    if error is not None:
        if (timed_out and limits.fail_on_timeout) or not _may_try_again(limits, counts, now):
            return Failed(error)
        delay = backoff(counts.attempt, error) if verdict.release is None else verdict.release.delay
        return Released(delay=delay, error=error)
    if verdict.release is not None:
        return verdict.release
    return Succeeded(value)


def _may_try_again(limits: Limits, counts: Counts, now: float) -> bool:
    if limits.max_exceptions is not None and counts.exceptions + 1 >= limits.max_exceptions:
        return False
    if limits.deadline is not None:
        return now < limits.deadline
    if limits.tries is None:
        return limits.max_exceptions is not None
    return limits.tries == 0 or counts.attempt < limits.tries


def backoff_delay(backoff: float | timedelta | Sequence[float | timedelta] | None, attempt: int) -> float:
    """Seconds to wait after the ``attempt``-th attempt; the last value of a sequence serves every later one.

    >>> [backoff_delay([1, 5], attempt) for attempt in (1, 2, 3)]
    [1.0, 5.0, 5.0]
    """
    if backoff is None:
        return 0.0
    if isinstance(backoff, (int, float, timedelta)):
        return to_seconds(backoff)
    return to_seconds(backoff[min(attempt, len(backoff)) - 1])


def to_seconds(duration: float | timedelta) -> float:
    """A duration given in seconds or as a timedelta, in seconds."""
    return float(in_seconds(duration))


def to_timestamp(until: datetime | timedelta | float, *, now: float) -> float:
    """An instant given as an aware datetime, or as a duration from now, in seconds since the epoch."""
    if isinstance(until, datetime):
        return until.timestamp()
    return now + to_seconds(until)
