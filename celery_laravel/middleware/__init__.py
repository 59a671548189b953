"""What wraps a run of a job's code."""

from celery_laravel.middleware.contract import CurrentJob, Middleware
from celery_laravel.middleware.fail_on_exception import FailOnException
from celery_laravel.middleware.limits import Limit, RateLimiter, funnel, throttle
from celery_laravel.middleware.rate_limited import RateLimited
from celery_laravel.middleware.release import Release
from celery_laravel.middleware.skip import Skip, SkipIfBatchCancelled
from celery_laravel.middleware.throttles_exceptions import ThrottlesExceptions
from celery_laravel.middleware.without_overlapping import WithoutOverlapping

__all__ = [
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
    "funnel",
    "throttle",
]
