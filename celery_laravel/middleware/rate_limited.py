"""Middleware that lets so many jobs start in so much time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery_laravel.attempt.running_job import running_of
from celery_laravel.errors import ConfigurationError, StoreUnavailableError
from celery_laravel.middleware.checks import check_flags, seconds_in
from celery_laravel.middleware.intervention import Intervening, intervene
from celery_laravel.middleware.limits.rate_limiter import is_name, store_name, windows_for
from celery_laravel.middleware.outage import put_back_for_store
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import LimitAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.stores.contracts import LimitStore
    from celery_laravel.stores.records import Slot, Window

logger = logging.getLogger("celery_laravel.middleware")

PADDING = 0.005
"""Seconds added to a job's wait for its slot, so that no rounding on its way brings it back before."""

_NO_LIMIT = LimitAnswer(granted=True)


class RateLimited(Intervening):
    """Let a job start only when the limiter of this name, defined by `RateLimiter.define`, has room for it.

    A job for which there is no room goes back to its queue until the start of
    its own, which is kept for it: waiting jobs do not compete, and each comes
    back once. A job that comes back late has what is left of the present
    window, and in its second half a job that comes for the first time has so
    too: a backlog does not have windows pass unused. All limits of
    the limiter are taken together, or none. One call of the store before the
    job's code, none after it.

        @app.task(tries=0, middleware=[RateLimited("search")])
        def index(product_id): ...

    A start is counted when the job's code is about to run, and stays counted
    whatever the code does, even if the worker dies before it runs. It is given
    back where another middleware turns the job away, and where a job for which
    one is kept ends without coming for it.

    A job that is put back uses up an attempt, unless ``count_attempt`` is False
    or left to ``laravel_release_counts = False``: give it ``tries`` enough, or a
    ``retry_until``.

    Args:
        name: The limiter.
        release_after: Seconds or a timedelta after which a job that is turned
            away comes back, instead of the time of its own start, which is then
            not kept.
        release: False: a job for which there is no room is not put back but
            skipped, which counts as processed.
        count_attempt: Whether being turned away uses up an attempt; None leaves
            it to ``laravel_release_counts``.

    Raises:
        ConfigurationError: When it is made: a value of the wrong kind. In the
            attempt: the limiter is not defined, or gave something else than
            limits.
        LimiterError: In the attempt: the limiter raised an exception.
    """

    def __init__(
        self,
        name: str,
        release_after: float | timedelta | None = None,
        release: bool = True,
        count_attempt: bool | None = None,
    ) -> None:
        if not is_name(name):
            raise ConfigurationError(f"RateLimited needs the name of a limiter, a text, not {name!r}.")
        me = f"RateLimited({name!r})"
        check_flags(me, release=release, count_attempt=count_attempt)
        self._name = name
        self._release_after = None if release_after is None else seconds_in(me, "release_after", release_after)
        self._release = release
        self._count_attempt = count_attempt

    def __call__(self, job: Any, next: Callable[[Any], Any]) -> Any:  # noqa: A002  the word the documentation uses
        """Go on if there is room; else put the job back, or skip it."""
        running = running_of(job)
        limits: LimitStore = store_of(job.app).limits
        try:
            windows = windows_for(self._name, job)
            answer = self._ask(limits, windows, running) if windows else _NO_LIMIT
        except StoreUnavailableError as error:
            return put_back_for_store(job, self, error)
        if not answer.granted:
            return self._turn_away(job, windows, answer)
        try:
            return next(job)
        finally:
            if answer.slots and not running.code_ran:
                self._give_back(limits, running, answer.slots)

    def _ask(self, limits: LimitStore, windows: Sequence[Window], running: RunningJob) -> LimitAnswer:
        """Ask for a start, and write into what the job's next message says whether one is kept for it."""
        name, keys = store_name(self._name), [window.key for window in windows]
        if not self._release or self._release_after is not None or running.is_sync:
            return limits.take(name, windows)
        answer = limits.take(name, windows, caller=running.id, is_overdue=running.has_slots(name, keys))
        running.note_slots(name, keys, are_kept=not answer.granted)
        return answer

    def _turn_away(self, job: Any, windows: Sequence[Window], answer: LimitAnswer) -> None:
        detail = ", ".join(f"key {window.key.partition(':')[2]}" for window in windows if not window.key.endswith(":"))
        if not self._release:
            intervene(job, self, "skipped", detail=detail)
            return
        delay = answer.delay + PADDING if self._release_after is None else self._release_after
        intervene(job, self, "released", delay=delay, detail=detail)
        job.release(delay, count_attempt=self._count_attempt)

    def _give_back(self, limits: LimitStore, running: RunningJob, slots: Sequence[Slot]) -> None:
        try:
            limits.give_back(store_name(self._name), slots)
        except StoreUnavailableError as error:
            logger.warning("Job %s: %r could not give its start back, so it stays counted: %s", running.id, self, error)

    def __repr__(self) -> str:
        options = {
            "release_after": (self._release_after, None),
            "release": (self._release, True),
            "count_attempt": (self._count_attempt, None),
        }
        given = "".join(f", {key}={value!r}" for key, (value, default) in options.items() if value != default)
        return f"RateLimited({self._name!r}{given})"
