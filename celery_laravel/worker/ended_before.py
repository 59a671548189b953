"""Jobs that had succeeded when their worker died: the result backend tells, where the store was not told any more.

Celery stores a job's result when it has sent what follows the job; the library
counts it, and ends its turn, after that. A worker that dies in between
leaves a message that comes again. While the job has attempts left it runs once more, as
after any crash. Once it has none it would be failed, although its success is there to be read.

Celery's own check (``worker_deduplicate_successful_tasks``) drops a message of a
job that has succeeded before the library hears of it, so that a batch
would wait for ever. For the library's jobs it is made here instead.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore

from celery_laravel import clock
from celery_laravel.attempt.outcome import PassedOn, outage_wait
from celery_laravel.errors import InvalidMessageError
from celery_laravel.message.header import read_header
from celery_laravel.message.unique_options import LATEST
from celery_laravel.worker.admission import waiting
from celery_laravel.worker.results import find_success, ignores_result
from celery_laravel.worker.starting import NotStarted

if TYPE_CHECKING:
    from datetime import timedelta

    from celery_laravel.attempt.outcome import Outcome
    from celery_laravel.attempt.running_job import RunningJob

logger = logging.getLogger(__name__)

MOST_WAITS = 60
"""How often a job waits for a result backend that does not answer: ten minutes. Then it is taken for lost."""


def ended_before(
    task: Any, request: Any, running: RunningJob, *, is_used_up: bool, keep_ended: timedelta
) -> Outcome | NotStarted | None:
    """The outcome of an attempt whose job had succeeded before; None when nothing is known of that.

    The result backend is asked only about a job that has lost a worker in this
    turn and has used up its attempts, and with Celery's
    ``worker_deduplicate_successful_tasks`` about every message that came again.
    While it does not answer, a job that would be failed waits instead, free of
    charge.

    A success that is older than ``keep_ended`` is not believed: it may be that
    of an earlier job of the same id. A younger one cannot be, as the end of that
    job would still be known, and this message dropped as a copy of it.
    """
    has_lost_worker = running.is_durable and running.counts.attempt - running.header.attempts > 1
    conf = task.app.conf
    is_deduplicated = bool(conf.worker_deduplicate_successful_tasks and (task.acks_late or conf.task_acks_late))
    came_again = has_lost_worker or bool((request.delivery_info or {}).get("redelivered"))
    if request.is_eager or not ((has_lost_worker and is_used_up) or (is_deduplicated and came_again)):
        return None
    # The part of a chord may not have been counted, and the newest arguments of the next job may be lost.
    if ignores_result(task, request) or request.chord or running.options.unique == LATEST:
        return None
    since = 0.0 if is_deduplicated else clock.now() - keep_ended.total_seconds()
    try:
        success = find_success(task, running.id, since=since)
    except Exception:
        logger.exception("Of job %s (%s) it is not known whether a result was stored", running.id, task.name)
        return _until_it_is_known(request) if is_used_up else None
    if success is None:
        return None
    logger.warning("Job %s (%s) had succeeded before its message came again", running.id, task.name)
    return PassedOn(Ignore("it had succeeded before its message came again"))


def _until_it_is_known(request: Any) -> NotStarted | None:
    try:
        header = read_header(request.headers)
    except InvalidMessageError:
        return None
    if header.waits >= MOST_WAITS:
        return None
    reason = "the result backend does not tell whether it had succeeded before its worker was lost"
    return NotStarted(reason, (waiting(header), outage_wait()))
