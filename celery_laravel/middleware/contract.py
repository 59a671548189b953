"""What a middleware is, and what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta


class CurrentJob(Protocol):
    """A job while one of its attempts runs: what middleware, limiters and predicates may ask and say."""

    name: str

    @property
    def attempts(self) -> int:
        """The number of this attempt, from 1."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments by parameter name."""

    @property
    def batch(self) -> Any:
        """The batch the job belongs to, or None."""

    @property
    def request(self) -> Any:
        """Celery's request."""

    def release(self, delay: float | timedelta = 0, count_attempt: bool | None = None) -> None:
        """Put the job back once this attempt returns."""

    def fail(self, exc: BaseException | str | None = None) -> None:
        """Fail the job for good once this attempt returns."""

    def delete(self) -> None:
        """Be done with the job, whatever follows in this attempt."""


class Middleware(Protocol):
    """Anything that can be called with a job and the next step.

    Call ``next(job)`` to go on; it returns what the job's code returned. Return
    without calling it to end the attempt there: the job counts as processed
    unless it was released or failed. An exception that leaves a middleware is
    the attempt's exception.

        def only_by_day(job, next):
            if 8 <= datetime.now().hour < 20:
                return next(job)
            job.release(3600)
    """

    def __call__(self, job: Any, next: Callable[[Any], Any]) -> Any:  # noqa: A002  the word the documentation uses
        """Do something around the rest of the attempt, which is ``next(job)``."""
