"""Middleware that ends an attempt without running the job's code; the job counts as processed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_laravel.middleware.checks import refuse_async
from celery_laravel.middleware.conditions import holds
from celery_laravel.middleware.intervention import Intervening, intervene

if TYPE_CHECKING:
    from collections.abc import Callable


class Skip(Intervening):
    """Skip the job when a condition holds, or unless it does.

    A skipped job is done: its chain goes on, its batch counts it as processed,
    and nothing is recorded as failed. The condition is a value, a callable, or a
    callable of the job, asked at every attempt.

        @app.task(middleware=[Skip.when(lambda job: is_holiday(job.arguments["day"]))])
        def open_shop(day): ...

    Raises:
        ConfigurationError: The condition is an async function.
    """

    def __init__(self, condition: Any, *, expected: bool = True) -> None:
        refuse_async("Skip", "the condition", condition)
        self._condition = condition
        self._expected = expected

    @classmethod
    def when(cls, condition: Any) -> Skip:
        """Skip the job when the condition holds."""
        return cls(condition)

    @classmethod
    def unless(cls, condition: Any) -> Skip:
        """Skip the job unless the condition holds."""
        return cls(condition, expected=False)

    def __call__(self, job: Any, next: Callable[[Any], Any]) -> Any:  # noqa: A002  the word the documentation uses
        """Go on, or end the attempt here."""
        if holds(self._condition, job) is not self._expected:
            return next(job)
        intervene(job, self, "skipped")
        return None

    def __repr__(self) -> str:
        return f"Skip.{'when' if self._expected else 'unless'}({self._condition!r})"


class SkipIfBatchCancelled(Intervening):
    """Skip the job when the batch it belongs to has been cancelled; one call of the store before its code.

    @app.task(middleware=[SkipIfBatchCancelled()])
    def import_rows(first, last): ...
    """

    def __call__(self, job: Any, next: Callable[[Any], Any]) -> Any:  # noqa: A002  the word the documentation uses
        """Go on, or end the attempt here."""
        batch = job.batch
        if batch is None or not batch.cancelled:
            return next(job)
        intervene(job, self, "skipped", detail=f"batch {batch.id} is cancelled")
        return None

    def __repr__(self) -> str:
        return "SkipIfBatchCancelled()"
