"""What a middleware did to an attempt, told in one way: a line at debug level, a signal, and the reason of a release.

The library's own tell it themselves, with the key that was busy and the like.
What others did shows in what the job is to become of.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_laravel import events
from celery_laravel.attempt.running_job import running_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_laravel.attempt.running_job import RunningJob

logger = logging.getLogger("celery_laravel.middleware")


class Intervening:
    """A middleware that tells what it does."""


def telling(middleware: Sequence[Any]) -> Sequence[Any]:
    """The same middleware, each of which tells what it does; as they are where nobody listens."""
    if not (events.job_intercepted.receivers or logger.isEnabledFor(logging.DEBUG)):
        return middleware
    return [layer if isinstance(layer, Intervening) else _Observed(layer) for layer in middleware]


def intervene(job: Any, middleware: Any, action: str, *, delay: float | None = None, detail: str = "") -> None:
    """Tell that a middleware keeps a job's code from running now, or ends the job.

    ``action`` is ``released``, ``skipped``, ``failed`` or ``deleted``; ``detail``
    is for people, such as the key that was busy. Costs next to nothing where
    nobody listens.

    The line reads: shop.backup[6f0b…] released for 12 s by RateLimited('backups'), key 42
    """
    if logger.isEnabledFor(logging.DEBUG):
        span = "" if delay is None else _span(delay)
        more = f", {detail}" if detail else ""
        logger.debug("%s[%s] %s%s by %r%s", job.name, job.request.id, action, span, middleware, more)
    if delay is not None:
        running_of(job).released_by = Release(delay, middleware, detail)
    if events.job_intercepted.receivers:
        events.send(
            events.job_intercepted,
            job,
            task_id=job.request.id,
            args=job.request.args or (),
            kwargs=job.request.kwargs or {},
            middleware=middleware,
            action=action,
            delay=delay,
            detail=detail,
        )


@dataclass(frozen=True)
class Release:
    """That a middleware has put a job back for ``delay`` seconds, and why."""

    delay: float
    middleware: Any
    detail: str


def reason_of_release(running: RunningJob, delay: float) -> str:
    """Why a job is put back, for Celery's own line about it: for how long, and by which middleware if by one.

    A middleware counts if the delay is its own: the last release of an attempt
    is the one that holds.
    """
    reason, by = f"released{_span(delay)}", running.released_by
    if by is None or by.delay != delay:
        return reason
    return f"{reason} by {by.middleware!r}{f', {by.detail}' if by.detail else ''}"


def _span(delay: float) -> str:
    return f" for {delay:g} s"


class _Observed:
    """A middleware that does not tell what it does, and is watched."""

    def __init__(self, layer: Callable[[Any, Callable[[Any], Any]], Any]) -> None:
        self._layer = layer

    def __call__(self, job: Any, next: Callable[[Any], Any]) -> Any:  # noqa: A002  the word the documentation uses
        went_on, before = False, _said(job)

        def go_on(job: Any) -> Any:
            nonlocal went_on, before
            went_on = True
            try:
                return next(job)
            finally:
                before = _said(job)

        value = self._layer(job, go_on)
        said = _said(job)
        if said != before or not went_on:
            release, failure, is_deleted = said
            if failure is not None:
                intervene(job, self._layer, "failed", detail=repr(failure))
            elif is_deleted:
                intervene(job, self._layer, "deleted")
            elif release is not None:
                intervene(job, self._layer, "released", delay=release.delay)
            else:
                intervene(job, self._layer, "skipped")
        return value


def _said(job: Any) -> tuple[Any, Any, bool]:
    verdict = running_of(job).verdict
    return verdict.release, verdict.failure, verdict.deleted
