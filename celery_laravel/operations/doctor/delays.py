"""Jobs that wait until they are due."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.operations.delayed import DelayedJobs
from celery_laravel.operations.doctor.findings import Finding
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from datetime import datetime

    from celery_laravel.operations.doctor.examination import Examination

_MOST = 2000
"""Delayed jobs that are looked through for those of a batch, the first due first."""
_LATE = timedelta(seconds=30)
"""Workers move what is due at once."""


def check_delays(found: Examination) -> None:
    """Find jobs that are due and that nobody has moved to their queue."""
    waiting = store_of(found.app).delays  # what a database broker keeps moves by itself
    first = waiting.all(limit=1)
    if not first or first[0].due_at > clock.as_datetime(clock.now()) - _LATE:
        return
    problem = (
        f"Delayed jobs are due and have not gone to their queue, the first of them {first[0].task} ({first[0].job_id}) "
        f"to {first[0].queue!r}; {waiting.count():,} wait in all."
    )
    advice = (
        "Start a worker of this app: `celery -A app worker`. Where some are running, their logs say why they do not."
    )
    found.findings.append(Finding("delays-due", problem, advice, since=first[0].due_at))


def delayed_of(found: Examination, batch_id: str) -> tuple[int, datetime | None]:
    """How many jobs of a batch are found waiting to be due, and when the first of them is due."""
    due = [job.due_at for job in DelayedJobs(found.app).all(limit=_MOST) if job.batch_id == batch_id]
    return len(due), min(due, default=None)
