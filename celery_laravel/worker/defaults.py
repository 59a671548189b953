"""What holds for jobs that declare nothing of their own: the settings, and over them the worker's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery_laravel.attempt.retry_policy import to_seconds
from celery_laravel.settings import settings_of

if TYPE_CHECKING:
    from celery import Celery

    from celery_laravel.message.options import JobOptions
    from celery_laravel.worker.time_limits import LimitTime


@dataclass
class AttemptDefaults:
    """Defaults of one process. A worker changes them in place before its children start.

    ``limit_time`` enforces timeouts where Celery's pool does not.
    """

    tries: int | None = None
    backoff: Any = None
    timeout: float | None = None
    release_counts: bool = True
    limit_time: LimitTime | None = None

    @property
    def manage_every_job(self) -> bool:
        """Whether jobs that declare nothing are managed all the same."""
        return self.tries is not None or self.timeout is not None


_defaults: WeakKeyDictionary[Celery, AttemptDefaults] = WeakKeyDictionary()


def defaults_of(app: Celery) -> AttemptDefaults:
    """The app's defaults, made from its settings the first time they are asked for."""
    defaults = _defaults.get(app)
    if defaults is None:
        settings = settings_of(app)
        made = AttemptDefaults(settings.tries, settings.backoff, settings.timeout, settings.release_counts)
        defaults = _defaults.setdefault(app, made)
    return defaults


def forget_defaults(app: Celery) -> None:
    """Make the defaults anew from the settings when they are next asked for."""
    _defaults.pop(app, None)


def timeout_of(options: JobOptions, defaults: AttemptDefaults) -> float | None:
    """Seconds an attempt may take, or None."""
    timeout = defaults.timeout if options.timeout is None else options.timeout
    return None if timeout is None else to_seconds(timeout)
