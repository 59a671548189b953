"""The task class: where dispatch and work meet."""

from celery_laravel.job.task import Job, current_job

__all__ = ["Job", "current_job"]
