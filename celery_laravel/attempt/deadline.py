"""When a job's ``retry_until`` ends."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery_laravel import clock
from celery_laravel.attempt.retry_policy import to_timestamp
from celery_laravel.errors import ConfigurationError
from celery_laravel.message.durations import is_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def deadline_of(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """The instant in seconds since the epoch until which a job that is dispatched now may be tried.

    Raises:
        ConfigurationError: The job's ``retry_until`` method returned something
            else than a duration or an aware datetime.
    """
    until = task.job_options.retry_until
    if callable(until):
        until = until(task, *args, **kwargs)
    is_naive = isinstance(until, datetime) and until.tzinfo is None
    if is_naive or not (isinstance(until, (timedelta, datetime)) or is_seconds(until)):
        wanted = "a timedelta, seconds, or an aware datetime"
        msg = f"Task {task.name!r}: retry_until returned {until!r}; it must return {wanted}."
        raise ConfigurationError(msg)
    return to_timestamp(until, now=clock.now())
