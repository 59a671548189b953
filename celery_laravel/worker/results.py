"""What the result backend knows of a job, and what it is told beside what Celery tells it."""

from __future__ import annotations

import logging
import traceback
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from celery.backends.base import DisabledBackend
from celery.states import SUCCESS
from celery.utils.time import maybe_iso8601

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_laravel.attempt.running_job import RunningJob

logger = logging.getLogger(__name__)

_TOLERANCE = 1.0
"""Seconds by which a result may seem to be older than it is: MySQL keeps whole ones."""


def stored_success(task: Any, job_id: str, *, since: float, ignores_result: bool) -> Mapping[str, Any] | None:
    """What the result backend has of a job that has succeeded since an instant; None where it has nothing of the kind.

    For the worker's main process: a backend that does not answer knows nothing; that is logged.
    """
    if ignores_result:
        return None
    try:
        return find_success(task, job_id, since=since)
    except Exception:
        logger.exception("Of job %s (%s) it is not known whether a result was stored", job_id, task.name)
        return None


def find_success(task: Any, job_id: str, *, since: float) -> Mapping[str, Any] | None:
    """What the result backend has of a job that has succeeded since an instant; None where it has nothing of the kind.

    It is asked once, without Celery's retries. An older success is that of
    another job of the same id.

    Raises:
        Exception: Whatever the backend raises that does not answer.
    """
    backend = task.backend
    if isinstance(backend, DisabledBackend) or backend.as_uri() == "rpc://":  # kept where it was asked for
        return None
    meta: Mapping[str, Any] = backend._get_task_meta_for(job_id)  # noqa: SLF001  what Celery's retries go around
    if meta["status"] != SUCCESS:
        return None
    done = maybe_iso8601(meta.get("date_done"))
    if not isinstance(done, datetime):
        return None
    if done.tzinfo is None:
        done = done.replace(tzinfo=timezone.utc)
    return meta if done.timestamp() >= since - _TOLERANCE else None


def ignores_result(task: Any, request: Any) -> bool:
    """Whether nothing is stored of a running job: its message says so, or else its task."""
    ignores = vars(request).get("ignore_result")
    return bool(task.ignore_result if ignores is None else ignores)


def store_retry(task: Any, request: Any, running: RunningJob, error: Any) -> None:
    """Store the state ``RETRY`` before the message goes out, in the place of Celery, which does so afterwards.

    By then another worker may have run the job to its end, and what is stored
    of that would be overwritten. A result backend that fails keeps no job from
    going back; that is logged.
    """
    if request.is_eager or ignores_result(task, request):
        return
    running.is_retry_stored = True
    lines = None
    if isinstance(error, BaseException):
        lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    else:  # Celery's `retry` takes a text too, and stores none
        error = None
    try:
        task.backend.mark_as_retry(request.id, error, lines, request=request)
    except Exception:
        logger.exception("Of job %s (%s) it could not be stored that it is put back", request.id, task.name)
