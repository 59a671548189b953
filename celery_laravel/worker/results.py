"""What the result backend knows of a job."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from celery.states import SUCCESS
from celery.utils.time import maybe_iso8601

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_TOLERANCE = 1.0
"""Seconds by which a result may seem to be older than it is: MySQL keeps whole ones."""


def stored_success(task: Any, job_id: str, *, since: float, ignores_result: bool) -> Mapping[str, Any] | None:
    """What the result backend has of a job that has succeeded since an instant; None where it has nothing of the kind.

    It is asked once, without Celery's retries, as this is for the worker's main
    process. An older success is that of another job of the same id. A
    backend that does not answer knows nothing; that is logged.
    """
    backend = task.backend
    if ignores_result or backend.as_uri() == "rpc://":  # whose results are kept where they were asked for
        return None
    try:
        meta: Mapping[str, Any] = backend._get_task_meta_for(job_id)  # noqa: SLF001  what Celery's retries go around
        if meta["status"] != SUCCESS:
            return None
        done = maybe_iso8601(meta.get("date_done"))
    except Exception:
        logger.exception("Of job %s (%s) it is not known whether a result was stored", job_id, task.name)
        return None
    if not isinstance(done, datetime):
        return None
    if done.tzinfo is None:
        done = done.replace(tzinfo=timezone.utc)
    return meta if done.timestamp() >= since - _TOLERANCE else None
