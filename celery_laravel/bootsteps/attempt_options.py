"""``celery worker --tries --backoff --timeout``: defaults for this worker, over those of the settings."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click
from celery import bootsteps
from celery.bin.base import CeleryOption

from celery_laravel.worker.defaults import defaults_of, timeout_of
from celery_laravel.worker.misspelt_keys import warn_of_misspelt_keys
from celery_laravel.worker.time_limits import limiter_of
from celery_laravel.worker.visibility_timeout import warn_of_long_jobs

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

_ENFORCING = ("celery.concurrency.prefork",)


class _Backoff(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 only
    """Seconds, or several separated by commas."""

    name = "seconds[,seconds…]"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            delays = [float(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds, nor several separated by commas", param, ctx)
        if any(not 0 <= delay < float("inf") for delay in delays):
            self.fail(f"{value!r}: a delay cannot be negative", param, ctx)
        return delays[0] if len(delays) == 1 else delays


def worker_options() -> list[click.Option]:
    """The options that ``celery worker`` gains."""
    return [
        CeleryOption(
            ["--tries"],
            type=click.IntRange(min=0),
            default=None,
            help="Attempts for jobs that declare no tries; 0 for no limit.",
            help_group="Job Options",
        ),
        CeleryOption(
            ["--backoff"],
            type=_Backoff(),
            default=None,
            help="Seconds before another attempt, for jobs that declare no backoff; several separated by commas.",
            help_group="Job Options",
        ),
        CeleryOption(
            ["--timeout"],
            type=click.FloatRange(min=0, min_open=True),
            default=None,
            help="Seconds an attempt may take, for jobs that declare no timeout.",
            help_group="Job Options",
        ),
    ]


class AttemptOptions(bootsteps.StartStopStep):
    """Takes the worker's options before its pool starts, so that its children know them."""

    def __init__(
        self, worker: Any, tries: int | None = None, backoff: Any = None, timeout: float | None = None, **_: Any
    ) -> None:
        self.app: Celery = worker.app
        defaults = defaults_of(self.app)
        if tries is not None:
            defaults.tries = tries
        if backoff is not None:
            defaults.backoff = backoff
        if timeout is not None:
            defaults.timeout = timeout
        self._is_enforced = worker.pool_cls.__module__ in _ENFORCING
        if not self._is_enforced:
            defaults.limit_time = limiter_of(worker.pool_cls.__module__)
            self._is_enforced = defaults.limit_time is not None

    def start(self, worker: Any) -> None:
        """Warn of timeouts that pool or broker do not keep to, and of keys that seem to be misspelt."""
        warn_of_long_jobs(self.app)
        warn_of_misspelt_keys(self.app)
        if self._is_enforced:
            return
        defaults = defaults_of(self.app)
        tasks = [
            task.name
            for task in self.app.tasks.values()
            if getattr(task, "job_options", None) is not None and timeout_of(task.job_options, defaults) is not None
        ]
        if tasks:
            logger.warning(
                "Timeouts are not enforced by the %s pool, and will end no job here: they are declared for %s. "
                "Start the worker with -P prefork, threads, solo, gevent or eventlet, which enforce them",
                worker.pool_cls.__module__.rpartition(".")[2],
                ", ".join(sorted(tasks)),
            )
