"""A failed job's way back to its queue."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery._state import get_current_task
from celery.app.task import Context, Task
from celery.backends.base import DisabledBackend
from celery.canvas import Signature
from celery.states import READY_STATES, RETRY
from celery.utils import uuid

from celery_laravel import clock, events
from celery_laravel.attempt.deadline import deadline_of
from celery_laravel.attempt.storing import keep_from_storing
from celery_laravel.dispatch.connections import send_through
from celery_laravel.message.canvas import change_headers, members_of
from celery_laravel.message.header import next_round, read_header, with_header
from celery_laravel.message.payload import load_payload
from celery_laravel.settings import own_connection, settings_of
from celery_laravel.stores.factory import NullFailedJobStore, failed_jobs_of, store_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery import Celery

    from celery_laravel.dispatch.batch import Batch
    from celery_laravel.message.header import Header
    from celery_laravel.stores.records import FailedJob

logger = logging.getLogger(__name__)

_OF_THE_OLD_MESSAGE = ("expires", "eta", "countdown", "retries", "redelivered", "is_eager")
"""Options of the message that failed which would revoke, delay, exhaust or belie the new one."""

CLAIM = timedelta(seconds=30)
"""For how long a failed job is left to who has begun to retry it."""

_RECORD_FOLLOWS = (0.1, 0.2, 0.4, 0.6, 0.7)
"""Seconds between looks for the record of a job that has just been counted as failed."""

_RESULT_FOLLOWS = 2.0
"""Seconds after a failure within which its result is waited for, which Celery stores when the record is kept."""
_LOOK = 0.05


def records_of(app: Celery, job_ids: Iterable[str]) -> list[FailedJob]:
    """The records of jobs that have been counted as failed, the oldest first; those that are forgotten are left out.

    A worker counts a failure first and keeps its record then: one that is
    missing may be on its way, and is waited for.
    """
    records = failed_jobs_of(app)
    found: dict[str, FailedJob] = {}
    missing = list(job_ids)
    pauses = iter(() if isinstance(records, NullFailedJobStore) else _RECORD_FOLLOWS)
    while missing:
        found |= {record.id: record for record in map(records.find, missing) if record is not None}
        missing = [job_id for job_id in missing if job_id not in found]
        pause = next(pauses, None) if missing else None
        if pause is None:
            break
        time.sleep(pause)
    return sorted(found.values(), key=lambda job: job.failed_at)


def to_retry(app: Celery, batch: Batch) -> list[FailedJob]:
    """The records of all jobs of a batch that are to be sent again, those of broken off retries first."""
    return [*broken_off(app, batch), *records_of(app, batch.failed_job_ids)]


def broken_off(app: Celery, batch: Batch) -> list[FailedJob]:
    """The records of a batch's jobs whose retry was broken off, the oldest first.

    Such a retry may have made its member pending, so that it is not among the
    failed ones any more, and have sent nothing. Where no member is pending, all
    that was sent has ended, and there are none.
    """
    return failed_jobs_of(app).interrupted(batch.id) if batch.pending_jobs else []


def retry_failed_job(app: Celery, job: FailedJob) -> bool:
    """Send a failed job again, under its id and from attempt 1; False when somebody else is about to, or has.

    Its record is claimed, the job sent, and the record removed, in that order:
    of two callers at once one sends it, and a process that is killed in between
    leaves the record. It can be retried again half a minute later, and the job
    may then be sent a second time. A job that has failed once more before its
    record is removed keeps the new one. When sending fails, the claim is given
    up at once. A member of a batch is pending from the claim on, with the rest
    of its chain. A job of another broker goes back there, if the app knows its
    name. Of a failure that is a moment old, the result is waited for, for two
    seconds at most: Celery would store it over what comes of the retry.

    Raises:
        ContentDisallowed: Its payload is in a serializer that ``accept_content`` does not name.
        StoreUnavailableError: The store did not answer, and nothing was sent.
    """
    signature = signature_of(app, job.payload)
    if job.connection in settings_of(app).connections and job.connection != own_connection(app):
        send_through(app, signature, job.connection)
    header = read_header(signature.options.get("headers"))
    deadline = _deadline(app, job, signature)
    signature.options["headers"] = with_header(signature.options.get("headers"), header.afresh(deadline=deadline))
    if header.chain is not None:
        for rest in (signature.options.get("chain"), signature.options.get("chord")):
            change_headers(rest, lambda following: replace(following, chain=next_round(following.chain)))
    is_failing_here = _is_running_here(job.id)
    if not is_failing_here:
        _await_failure(app, job, signature)
    owner = uuid()
    if failed_jobs_of(app).claim(job.id, owner=owner, lease=CLAIM) is None:
        return False
    try:
        _revive(app, job, signature, header)
        _await_anew(app, job, signature)
        events.send(
            events.job_retry_requested,
            app.tasks.get(job.task),
            task_id=job.id,
            args=signature.args,
            kwargs=signature.kwargs,
        )
        signature.apply_async()
    except BaseException:
        _give_up(app, job, owner)
        raise
    _remove(app, job, owner)
    if is_failing_here:  # called by a receiver of its `job_failed`: Celery is to store nothing over the new state
        keep_from_storing(get_current_task().request)
    return True


def _give_up(app: Celery, job: FailedJob, owner: str) -> None:
    try:
        failed_jobs_of(app).release(job.id, owner=owner)
    except Exception:  # why it was not sent is what the caller has to know
        logger.exception("The claim on the failed job %s could not be given up; it ends in %s", job.id, CLAIM)


def _remove(app: Celery, job: FailedJob, owner: str) -> None:
    try:
        failed_jobs_of(app).forget(job.id, owner=owner)
    except Exception:  # it was sent all the same
        logger.exception(
            "The failed job %s was sent again, but its record could not be removed: until the job fails anew "
            "or somebody forgets it, it is shown as failed, and another retry would run it once more",
            job.id,
        )


def _deadline(app: Celery, job: FailedJob, signature: Signature) -> float | None:
    """When the new ``retry_until`` ends: it is counted from the retry."""
    options = getattr(app.tasks.get(job.task), "job_options", None)
    if options is None or options.retry_until is None:
        return None
    return deadline_of(app.tasks[job.task], signature.args, signature.kwargs)


def _revive(app: Celery, job: FailedJob, signature: Signature, header: Header) -> None:
    if header.batch_id is None or header.index is None:
        return
    rest = [*members_of(signature.options.get("chain"), header.batch_id)]
    rest += members_of(signature.options.get("chord"), header.batch_id)
    store_of(app).batches.revive(header.batch_id, header.index, job_id=job.id, skips=rest)


def _is_running_here(job_id: str) -> bool:
    """Whether this thread or greenlet is about to end the job, so that waiting for its end would be in vain."""
    task = get_current_task()
    return task is not None and task.request.id == job_id and not task.request.is_eager


def _await_failure(app: Celery, job: FailedJob, signature: Signature) -> None:
    """Wait until the result of a failure that has just been recorded is stored, if it is to be."""
    left = _RESULT_FOLLOWS - max(0.0, clock.now() - job.failed_at.timestamp())
    if left <= 0 or not _stores_result(app, job, signature):
        return
    end = time.monotonic() + left
    try:
        while app.backend.get_state(job.id) not in READY_STATES and time.monotonic() < end:
            time.sleep(_LOOK)
    except Exception:
        logger.exception("The result of %s cannot be looked at; it is retried all the same", job.id)


def _stores_result(app: Celery, job: FailedJob, signature: Signature) -> bool:
    if isinstance(app.backend, DisabledBackend) or app.backend.as_uri() == "rpc://":
        return False
    return not signature.options.get("ignore_result", getattr(app.tasks.get(job.task), "ignore_result", False))


def _await_anew(app: Celery, job: FailedJob, signature: Signature) -> None:
    """Take the failure out of the result backend, so that whoever asks for the result waits for the new one."""
    if signature.options.get("ignore_result") or isinstance(app.backend, DisabledBackend):
        return
    try:
        app.backend.store_result(job.id, None, RETRY)
    except Exception:
        logger.exception("The result of %s could not be reset; until the job ends it shows the old failure", job.id)


def signature_of(app: Celery, payload: Mapping[str, Any]) -> Signature:
    """The signature of a job that was kept as a payload, as in a failed job's record.

    The payload holds a signature, or, with ``headers``, a message that no worker
    could take as it came.
    """
    data = load_payload(payload, app)
    if "headers" in payload:
        data = _signature_of_message(app, payload, *data)
    signature = Signature.from_dict(data, app=app)
    for option in _OF_THE_OLD_MESSAGE:
        signature.options.pop(option, None)
    return signature


def _signature_of_message(app: Celery, payload: Mapping[str, Any], args: Any, kwargs: Any, embed: Any) -> Signature:
    request = Context({**payload["headers"], **(embed or {}), "args": args, "kwargs": kwargs})
    request.delivery_info = {"exchange": "", **payload["delivery_info"]}
    name = payload["headers"]["task"]
    task = type("StandIn", (Task,), {"name": name})()  # the process may not know it
    task.bind(app)
    return task.signature_from_request(request)
