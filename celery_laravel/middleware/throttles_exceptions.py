"""Middleware that keeps jobs away from something that has begun to fail: a circuit breaker."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from celery_laravel.errors import ConfigurationError, StoreUnavailableError
from celery_laravel.middleware.checks import check_by, check_flags, refuse_async, seconds_in, wrong
from celery_laravel.middleware.intervention import Intervening, intervene
from celery_laravel.middleware.keys import key_of
from celery_laravel.middleware.limits.limit import is_count
from celery_laravel.middleware.outage import put_back_for_store
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from datetime import timedelta

    from celery_laravel.stores.contracts import LimitStore

logger = logging.getLogger("celery_laravel.middleware")

STORE_NAME = "throttles_exceptions"
_ME = "ThrottlesExceptions"

MARGIN = 3.0
"""Seconds added to the rest of a window, as in Laravel: the clocks of workers and server may differ."""

_PASSES = (Retry, Ignore, Reject, SoftTimeLimitExceeded, ConfigurationError)
"""What waiting would not cure: Celery's own signals, a timeout, which has options of its own, and a mistake."""

Matching = Collection[type[BaseException]] | type[BaseException] | Callable[[BaseException], Any]


class ThrottlesExceptions(Intervening):
    """Put a job back instead of failing it when it raises, and after too many exceptions keep all its kind waiting.

    An exception of the job's code is counted, and the job comes back after
    ``backoff`` seconds; it is not the attempt's exception, so neither
    ``max_exceptions`` nor a failure follows from it. Once ``max_attempts``
    exceptions have been counted within ``decay`` seconds of the first, jobs are
    put back without running until those seconds are over. A job that ends
    without an exception clears the count.

        @app.task(retry_until=timedelta(hours=6), middleware=[ThrottlesExceptions(10, decay=300, backoff=60)])
        def sync_with_partner(order_id): ...

    The count is one for each task, unless ``by`` or ``by_job`` says otherwise.
    Each time it is put back the job uses up an attempt: give it ``tries``
    enough, or a ``retry_until``. A job's timeout is not throttled and not
    counted, nor are Celery's own ``Retry``, ``Ignore`` and ``Reject``, nor a
    ``ConfigurationError``.

    It costs one call of the store before the code, and one after it when there
    is something to count or to clear.

    Args:
        max_attempts: Exceptions after which jobs wait.
        decay: Seconds or a timedelta, from the first exception, after which the
            count begins anew.
        by: What is counted together: a value, the name or names of arguments,
            or a callable of the job. Tasks with the same value share a count.
        by_job: Every job (task id) has a count of its own.
        backoff: Seconds or a timedelta until a job that raised comes back.
        when: Which exceptions are throttled: a type, several, or a predicate;
            others are the attempt's exception as if this were not here.
        delete_when: Exceptions after which the job is done, and not failed.
        fail_when: Exceptions after which the job has failed for good.
        report: True logs throttled exceptions with their traceback; a callable
            is called with each, and has it logged by returning True.

    Raises:
        ConfigurationError: An option is of the wrong kind.
    """

    def __init__(  # noqa: PLR0917  in the order of the documentation
        self,
        max_attempts: int = 10,
        decay: float | timedelta = 600,
        by: Any = None,
        by_job: bool = False,
        backoff: float | timedelta = 0,
        when: Matching | None = None,
        delete_when: Matching | None = (),
        fail_when: Matching | None = (),
        report: bool | Callable[[BaseException], Any] | None = None,
    ) -> None:
        if not is_count(max_attempts):
            raise wrong(_ME, "max_attempts", "a whole number above 0", max_attempts)
        check_flags(_ME, by_job=by_job)
        check_by(_ME, by)
        if by is not None and by_job:
            raise ConfigurationError(f"ThrottlesExceptions: by = {by!r} and by_job contradict each other. Keep one.")
        if report is not None and not isinstance(report, bool) and not callable(report):
            raise wrong(_ME, "report", "True, False or a callable of the exception", report)
        refuse_async(_ME, "report", report)
        self._max_attempts = max_attempts
        self._decay = seconds_in(_ME, "decay", decay)
        if self._decay == 0:
            raise wrong(_ME, "decay", "above 0 seconds", decay)
        self.by = by
        self._by_job = by_job
        self._backoff = seconds_in(_ME, "backoff", backoff)
        self._when = None if when is None else _matcher("when", when)
        self._delete_when = _matcher("delete_when", () if delete_when is None else delete_when)
        self._fail_when = _matcher("fail_when", () if fail_when is None else fail_when)
        self._report = report

    def key_for(self, job: Any) -> str:
        """Under which key this job's exceptions are counted.

        Raises:
            TypeError: What ``by`` gives cannot be a key.
        """
        if self._by_job:
            return f"job:{job.request.id}"
        return f"task:{job.name}" if self.by is None else f"by:{key_of(self.by, job)}"

    def __call__(self, job: Any, next: Callable[[Any], Any]) -> Any:  # noqa: A002  the word the documentation uses
        """Go on unless too much has failed, and put the job back when it fails."""
        limits, key = store_of(job.app).limits, self.key_for(job)
        try:
            window = limits.look(STORE_NAME, key)
        except StoreUnavailableError as error:
            return put_back_for_store(job, self, error)
        if window.count >= self._max_attempts:
            rest = math.ceil(round(window.ends_in, 3))  # whole seconds, as in Laravel
            return self._put_back(job, rest + MARGIN, f"{window.count} exceptions, key {key}")
        try:
            value = next(job)
        except _PASSES:
            raise
        except Exception as error:
            if self._when is not None and not self._when(error):
                raise
            return self._end(job, limits, key, error)
        if window.count:
            _clear(job, limits, key)
        return value

    def _end(self, job: Any, limits: LimitStore, key: str, error: Exception) -> None:
        """End an attempt whose exception is throttled."""
        self._tell(job, error)
        if self._delete_when(error):
            intervene(job, self, "deleted", detail=repr(error))
            job.delete()
        elif self._fail_when(error):
            intervene(job, self, "failed", detail=repr(error))
            job.fail(error)
        else:
            _count(job, limits, key, self._decay)
            self._put_back(job, self._backoff, f"{error!r}, key {key}")

    def _put_back(self, job: Any, delay: float, detail: str) -> None:
        intervene(job, self, "released", delay=delay, detail=detail)
        job.release(delay)

    def _tell(self, job: Any, error: Exception) -> None:
        try:
            is_logged = self._report(error) is True if callable(self._report) else bool(self._report)
        except Exception:
            logger.exception("Job %s (%s): report of %r raised", job.request.id, job.name, self)
            is_logged = True
        if is_logged:
            logger.error("Job %s (%s) raised, and is throttled by %r", job.request.id, job.name, self, exc_info=error)

    def __repr__(self) -> str:
        key = ", by_job=True" if self._by_job else "" if self.by is None else f", by={self.by!r}"
        return f"ThrottlesExceptions({self._max_attempts}, decay={self._decay:g}{key})"


def _count(job: Any, limits: LimitStore, key: str, seconds: float) -> None:
    """Count an exception; the job goes back whether or not that succeeds."""
    try:
        limits.hit(STORE_NAME, key, seconds=seconds)
    except StoreUnavailableError as error:
        logger.warning("An exception of job %s (%s) could not be counted: %s", job.request.id, job.name, error)


def _clear(job: Any, limits: LimitStore, key: str) -> None:
    """Begin to count anew; the job has succeeded whether or not that does."""
    try:
        limits.clear(STORE_NAME, key)
    except StoreUnavailableError as error:
        logger.warning(
            "After job %s (%s) the count of %s could not be cleared: %s", job.request.id, job.name, key, error
        )


def _matcher(option: str, matching: Any) -> Callable[[BaseException], bool]:
    """A predicate of exceptions, made of a type, several types, or a predicate."""
    refuse_async(_ME, option, matching)
    types = (matching,) if isinstance(matching, type) else matching
    if callable(types):
        return lambda error: bool(types(error))
    is_several = isinstance(types, Collection) and not isinstance(types, str)
    if is_several and all(isinstance(each, type) and issubclass(each, BaseException) for each in types):
        found = tuple(types)
        return lambda error: isinstance(error, found)
    raise wrong(_ME, option, "an exception type, several, or a predicate", matching)
