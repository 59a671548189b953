"""The signals of jobs and batches, for ``signal.connect(receiver)``.

A job's signals send ``sender`` = the task and the keywords ``task_id``, ``args``,
``kwargs``, and where they apply ``exception``, ``delay`` (seconds) and ``queue``;
``job_intercepted``, sent by a middleware that keeps the code from running,
``middleware``, ``action`` (``released``, ``skipped``, ``failed``) and ``detail``;
``unique_job_skipped`` the ``holder_id``, and ``job_debounced`` the ``newer_id``.
A batch's send ``sender`` = the app and ``batch``.
"""

from celery_laravel.events import (
    batch_cancelled,
    batch_dispatched,
    batch_finished,
    job_debounced,
    job_exception_occurred,
    job_failed,
    job_intercepted,
    job_processed,
    job_processing,
    job_queued,
    job_queueing,
    job_released,
    job_retry_requested,
    job_timed_out,
    unique_job_skipped,
)

__all__ = [
    "batch_cancelled",
    "batch_dispatched",
    "batch_finished",
    "job_debounced",
    "job_exception_occurred",
    "job_failed",
    "job_intercepted",
    "job_processed",
    "job_processing",
    "job_queued",
    "job_queueing",
    "job_released",
    "job_retry_requested",
    "job_timed_out",
    "unique_job_skipped",
]
