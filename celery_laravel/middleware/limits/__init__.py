"""Limits: their definitions, and blocks of code that keep to them."""

from celery_laravel.middleware.limits.funnel import funnel
from celery_laravel.middleware.limits.limit import Limit
from celery_laravel.middleware.limits.rate_limiter import RateLimiter
from celery_laravel.middleware.limits.throttle import throttle

__all__ = ["Limit", "RateLimiter", "funnel", "throttle"]
