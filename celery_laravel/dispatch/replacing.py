"""What takes the place of a running member of a batch."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_laravel.errors import BatchFinishedError, BatchNotFoundError
from celery_laravel.message.canvas import mark_members, tasks_of
from celery_laravel.message.header import NAME, with_header

if TYPE_CHECKING:
    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.stores.contracts import Store


def hand_over(store: Store, running: RunningJob, signature: Any) -> None:
    """Let a signature that replaces a running member of a batch count in its place.

    The last task takes the member's own index, as Celery gives it the member's
    id; what a canvas runs before it is added to the batch, each task as a job.
    In a batch that is no longer known they run uncounted.
    """
    header = running.header
    if header.batch_id is None or header.index is None:
        return
    *others, heir = [task for task in tasks_of(signature) if NAME not in (task["options"].get("headers") or {})]
    member = replace(header, turn=0, attempts=0, exceptions=0, deadline=None)
    heir["options"]["headers"] = with_header(heir["options"].get("headers"), member)
    if others:
        with contextlib.suppress(BatchNotFoundError, BatchFinishedError):
            mark_members(others, header.batch_id, store.batches.add(header.batch_id, len(others)), None)
