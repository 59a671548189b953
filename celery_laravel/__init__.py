"""The job features of Laravel's queues for Celery: attempts, middleware, batches, failed jobs.

    from celery import Celery
    from celery_laravel import install

    app = Celery("shop", broker="redis://localhost:6379/0")
    install(app)

Importing this package changes nothing but one entry in kombu's table of
transports, which has no other way to learn of the ``database+…`` broker. As in
Celery itself, the names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module

from celery_laravel._version import __version__
from celery_laravel.transport import register as _register_transport

TYPE_CHECKING = False  # typing takes as long to import as Celery does
if TYPE_CHECKING:
    from typing import Any

    from celery_laravel import errors, signals
    from celery_laravel.bootstrap import embedded, install
    from celery_laravel.bus import Bus
    from celery_laravel.dispatch.batch import Batch
    from celery_laravel.errors import (
        BatchDispatchError,
        BatchFinishedError,
        BatchNotFoundError,
        CeleryLaravelError,
        ConfigurationError,
        InvalidMessageError,
        InvalidSignatureError,
        JobReleasedError,
        JobTimedOutError,
        LimiterError,
        LimitTimeoutError,
        ManuallyFailedError,
        MaxAttemptsExceededError,
        ModelNotFoundError,
        StoreUnavailableError,
    )
    from celery_laravel.job import Job, current_job
    from celery_laravel.message.unique_options import ShouldBeUnique, ShouldBeUniqueUntilProcessing
    from celery_laravel.middleware import (
        CurrentJob,
        FailOnException,
        Limit,
        Middleware,
        RateLimited,
        RateLimiter,
        Release,
        Skip,
        SkipIfBatchCancelled,
        ThrottlesExceptions,
        WithoutOverlapping,
        funnel,
        throttle,
    )

__all__ = [  # noqa: RUF022  grouped by what they are for
    # installing
    "Job",
    "embedded",
    "install",
    # what a job's class may declare
    "ShouldBeUnique",
    "ShouldBeUniqueUntilProcessing",
    # while a job runs
    "CurrentJob",
    "FailOnException",
    "Limit",
    "Middleware",
    "RateLimited",
    "RateLimiter",
    "Release",
    "Skip",
    "SkipIfBatchCancelled",
    "ThrottlesExceptions",
    "WithoutOverlapping",
    "current_job",
    "funnel",
    "throttle",
    # batches and failed jobs
    "Batch",
    "Bus",
    # modules
    "errors",
    "signals",
    # errors
    "BatchDispatchError",
    "BatchFinishedError",
    "BatchNotFoundError",
    "CeleryLaravelError",
    "ConfigurationError",
    "InvalidMessageError",
    "InvalidSignatureError",
    "JobReleasedError",
    "JobTimedOutError",
    "LimiterError",
    "LimitTimeoutError",
    "ManuallyFailedError",
    "MaxAttemptsExceededError",
    "ModelNotFoundError",
    "StoreUnavailableError",
    # version
    "__version__",
]

_HOMES = {
    "Batch": "dispatch.batch",
    "Bus": "bus",
    "Job": "job",
    "CurrentJob": "middleware",
    "FailOnException": "middleware",
    "Limit": "middleware",
    "Middleware": "middleware",
    "RateLimited": "middleware",
    "RateLimiter": "middleware",
    "Release": "middleware",
    "ShouldBeUnique": "message.unique_options",
    "ShouldBeUniqueUntilProcessing": "message.unique_options",
    "Skip": "middleware",
    "SkipIfBatchCancelled": "middleware",
    "ThrottlesExceptions": "middleware",
    "WithoutOverlapping": "middleware",
    "current_job": "job",
    "embedded": "bootstrap",
    "funnel": "middleware",
    "install": "bootstrap",
    "throttle": "middleware",
}
_MODULES = {"errors", "signals"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


_register_transport()
