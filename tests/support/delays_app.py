"""The app of `jobs_app` with workers that move delayed jobs more often, and claim them for two seconds only."""

from __future__ import annotations

from datetime import timedelta

from celery_laravel.bootsteps import delays as thread
from celery_laravel.worker import delays
from tests.support.jobs_app import app

__all__ = ["app"]

delays.LEASE = timedelta(seconds=2)
delays.CLAIMED_AT_ONCE = 10
thread.INTERVAL = 0.1
