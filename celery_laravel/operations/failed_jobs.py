"""Failed jobs: look at them, try them again, forget them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from celery_laravel import clock
from celery_laravel.dispatch.failed_jobs import retry_failed_job
from celery_laravel.stores.factory import failed_jobs_of

if TYPE_CHECKING:
    from celery import Celery

    from celery_laravel.stores.records import FailedJob

logger = logging.getLogger(__name__)


class FailedJobs:
    """The failed jobs of an app, by job id.

    Several people may work on them at once: a job that another is retrying, or
    has just retried or forgotten, is not counted again. A record is there, with
    ``claimed_until``, until its job has been sent.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._store = failed_jobs_of(app)

    def all(self, queue: str | None = None, limit: int | None = None) -> list[FailedJob]:
        """Records, newest first."""
        return self._store.all(queue=queue, limit=limit)

    def find(self, id: str) -> FailedJob | None:  # noqa: A002  the documented name
        """One record, or None."""
        return self._store.find(id)

    def count(self, queue: str | None = None) -> int:
        """How many there are."""
        return self._store.count(queue=queue)

    def retry(self, id: str, queue: str | None = None) -> int:  # noqa: A002  the documented name
        """Try a failed job again, or ``"all"``, newest failure first; return how many were sent.

        A retried job keeps its id and starts at attempt 1. One that cannot be
        sent keeps its record; its exception is raised after the others have
        been sent. So does one whose caller is killed: after half a minute it
        can be retried again, and may then be sent twice.
        """
        found = self.all(queue=queue) if id == "all" else [self.find(id)]
        jobs = [job for job in found if job is not None and queue in {None, job.queue}]
        sent, problem = 0, None
        for job in jobs:
            try:
                sent += retry_failed_job(self._app, job)
            except Exception as error:
                logger.exception("The failed job %s (%s) could not be sent again", job.id, job.task)
                problem = problem or error
        if problem is not None:
            raise problem
        return sent

    def forget(self, id: str) -> bool:  # noqa: A002  the documented name
        """Remove one record, also of a job that somebody is retrying; True when there was one."""
        return self._store.forget(id)

    def flush(self, hours: float | None = None) -> int:
        """Remove all records, or those that are older than so many hours; return how many."""
        return self._store.flush(before=None if hours is None else clock.hours_ago(hours))

    def prune(self, hours: float = 24) -> int:
        """Remove the records that are older than so many hours; return how many."""
        return self._store.flush(before=clock.hours_ago(hours))
