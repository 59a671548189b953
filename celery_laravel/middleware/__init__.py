"""What wraps a run of a job's code."""

from celery_laravel.middleware.contract import CurrentJob, Middleware

__all__ = ["CurrentJob", "Middleware"]
