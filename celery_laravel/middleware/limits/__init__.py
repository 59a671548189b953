"""Limits: their definitions, and blocks of code that keep to them."""

from celery_laravel.middleware.limits.funnels import funnel
from celery_laravel.middleware.limits.limit import Limit
from celery_laravel.middleware.limits.rate_limiter import RateLimiter
from celery_laravel.middleware.limits.throttles import throttle

__all__ = ["Limit", "RateLimiter", "funnel", "throttle"]
