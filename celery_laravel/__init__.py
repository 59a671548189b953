"""The job features of Laravel's queues for Celery: attempts, middleware, batches, failed jobs.

    from celery import Celery
    from celery_laravel import install

    app = Celery("shop", broker="redis://localhost:6379/0")
    install(app)

Importing this package changes nothing but one entry in kombu's table of
transports, which has no other way to learn of the ``database+…`` broker.
"""

from celery_laravel import errors, signals
from celery_laravel._version import __version__
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
    LimitTimeoutError,
    ManuallyFailedError,
    MaxAttemptsExceededError,
    ModelNotFoundError,
    StoreUnavailableError,
)
from celery_laravel.job import Job, current_job
from celery_laravel.middleware import Middleware
from celery_laravel.transport import register as _register_transport

__all__ = [
    # installing
    "Job",
    "embedded",
    "install",
    # while a job runs
    "Middleware",
    "current_job",
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
    "LimitTimeoutError",
    "ManuallyFailedError",
    "MaxAttemptsExceededError",
    "ModelNotFoundError",
    "StoreUnavailableError",
    # version
    "__version__",
]

_register_transport()
