"""Middleware that puts a job back before its code runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_laravel.middleware.checks import refuse_async, seconds_in
from celery_laravel.middleware.conditions import holds
from celery_laravel.middleware.intervention import Intervening, intervene

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta


class Release(Intervening):
    """Put the job back when a condition holds, or unless it does; ``delay`` is in seconds or a timedelta.

    A release uses up an attempt, unless ``laravel_release_counts`` is False:
    give the job ``tries`` enough, or a ``retry_until``.

        @app.task(tries=10, middleware=[Release.unless(warehouse_is_open, delay=600)])
        def pick(order_id): ...

    Raises:
        ConfigurationError: The delay is negative or no duration, or the condition an async function.
    """

    def __init__(self, condition: Any, delay: float | timedelta = 0, *, expected: bool = True) -> None:
        refuse_async("Release", "the condition", condition)
        self._condition = condition
        self._delay = seconds_in("Release", "delay", delay)
        self._expected = expected

    @classmethod
    def when(cls, condition: Any, delay: float | timedelta = 0) -> Release:
        """Put the job back when the condition holds."""
        return cls(condition, delay)

    @classmethod
    def unless(cls, condition: Any, delay: float | timedelta = 0) -> Release:
        """Put the job back unless the condition holds."""
        return cls(condition, delay, expected=False)

    def __call__(self, job: Any, next: Callable[[Any], Any]) -> Any:  # noqa: A002  the word the documentation uses
        """Go on, or put the job back."""
        if holds(self._condition, job) is not self._expected:
            return next(job)
        intervene(job, self, "released", delay=self._delay)
        job.release(self._delay)
        return None

    def __repr__(self) -> str:
        return f"Release.{'when' if self._expected else 'unless'}({self._condition!r}, delay={self._delay:g})"
