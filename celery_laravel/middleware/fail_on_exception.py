"""Middleware that fails a job for good on exceptions that another attempt would not cure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject, Retry

from celery_laravel.message.functions import is_async
from celery_laravel.middleware.intervention import Intervening, intervene

if TYPE_CHECKING:
    from collections.abc import Callable


class FailOnException(Intervening):
    """Fail the job at once, whatever ``tries`` still allows, when its code raises one of these.

    Each argument is an exception type or a predicate of the exception. Celery's
    own ``Retry``, ``Ignore`` and ``Reject`` match nothing.

        @app.task(tries=5, middleware=[FailOnException(PermissionError, lambda exc: "gone" in str(exc))])
        def fetch(url): ...

    Raises:
        TypeError: An argument is neither.
    """

    def __init__(self, *matching: type[BaseException] | Callable[[BaseException], Any]) -> None:
        if not matching:
            raise TypeError(
                "FailOnException needs an exception type or a predicate, such as FailOnException(ValueError)."
            )
        for item in matching:
            if not _can_match(item):
                msg = f"FailOnException: {item!r} is neither an exception type nor a plain predicate."
                raise TypeError(f"{msg} Give several one by one, as in FailOnException(ValueError, KeyError).")
        self._matching = matching

    def __call__(self, job: Any, next: Callable[[Any], Any]) -> Any:  # noqa: A002  the word the documentation uses
        """Go on, and fail the job for good on a matching exception."""
        try:
            return next(job)
        except (Retry, Ignore, Reject):  # exceptions in name only, which Celery acts upon
            raise
        except Exception as error:
            if any(_matches(error, item) for item in self._matching):
                intervene(job, self, "failed", detail=repr(error))
                job.fail(error)
            raise

    def __repr__(self) -> str:
        return f"FailOnException({', '.join(getattr(item, '__name__', repr(item)) for item in self._matching)})"


def _matches(error: Exception, item: Any) -> bool:
    return isinstance(error, item) if isinstance(item, type) else bool(item(error))


def _can_match(item: Any) -> bool:
    return issubclass(item, BaseException) if isinstance(item, type) else callable(item) and not is_async(item)
