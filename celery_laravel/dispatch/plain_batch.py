"""A batch as values that JSON can carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_laravel.dispatch.batch import Batch


def as_plain(batch: Batch, failed_job_ids: Iterable[str]) -> dict[str, Any]:
    """The attributes of a batch, instants in ISO 8601, with those ids of failed jobs that its snapshot names."""
    return {
        "id": batch.id,
        "name": batch.name,
        "total_jobs": batch.total_jobs,
        "pending_jobs": batch.pending_jobs,
        "processed_jobs": batch.processed_jobs,
        "failed_jobs": batch.failed_jobs,
        "skipped_jobs": batch.skipped_jobs,
        "failed_job_ids": list(failed_job_ids),
        "progress": batch.progress,
        "finished": batch.finished,
        "cancelled": batch.cancelled,
        "allows_failures": batch.allows_failures,
        "options": dict(batch.options),
        "created_at": batch.created_at.isoformat(),
        "cancelled_at": batch.cancelled_at.isoformat() if batch.cancelled_at else None,
        "finished_at": batch.finished_at.isoformat() if batch.finished_at else None,
    }
