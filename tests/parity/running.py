"""A running job of the library, as scripts speak to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Running:
    """The voice of a running job."""

    def __init__(self, task: Any, members: Callable[[Sequence[str]], list[Any]], note: Callable[..., None]) -> None:
        self._task, self._members, self._note = task, members, note
        self.attempts: int = task.attempts

    def release(self, seconds: float) -> None:
        self._task.release(seconds)

    def fail(self, error: Exception | None) -> None:
        self._task.fail(error)

    def delete(self) -> None:
        self._task.delete()

    def cancel_batch(self) -> None:
        self._task.batch.cancel()

    def add_to_batch(self, labels: Sequence[str]) -> None:
        batch = self._task.batch.add(self._members(labels))
        self._note("batch_added", batch=shape_of(batch))

    def batch_shape(self) -> dict[str, Any]:
        return shape_of(self._task.batch)

    def set_note(self, note: str) -> None:
        self._task.request.note = note


def shape_of(batch: Any) -> dict[str, Any]:
    """A batch as traces show it."""
    return {
        "total": batch.total_jobs,
        "pending": batch.pending_jobs,
        "failed": batch.failed_jobs,
        "failed_job_ids": len(batch.failed_job_ids),
        "processed": batch.processed_jobs,
        "progress": batch.progress,
        "cancelled": batch.cancelled,
        "finished": batch.finished,
    }
