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
    def attempts(self) -> int: ...

    @property
    def arguments(self) -> Mapping[str, Any]: ...

    @property
    def batch(self) -> Any: ...

    @property
    def request(self) -> Any: ...

    def release(self, delay: float | timedelta = 0, count_attempt: bool | None = None) -> None: ...

    def fail(self, exc: BaseException | str | None = None) -> None: ...

    def delete(self) -> None: ...


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

    def __call__(self, job: Any, next: Callable[[Any], Any]) -> Any: ...  # noqa: A002  the word the documentation uses
