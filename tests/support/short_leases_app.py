"""The app of `locks_app`, whose leases last for three seconds instead of sixty."""

from __future__ import annotations

from datetime import timedelta

from celery_laravel.attempt import leases
from tests.support.locks_app import app

leases.LEASE, leases.INTERVAL = timedelta(seconds=3), 0.5

__all__ = ["app"]
