"""A failed job's way back to its queue."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature
from kombu.serialization import loads, registry

from celery_laravel import events
from celery_laravel.attempt.deadline import deadline_of
from celery_laravel.message.canvas import members_of
from celery_laravel.message.header import read_header, with_header
from celery_laravel.stores.factory import failed_jobs_of, store_of

if TYPE_CHECKING:
    from celery import Celery

    from celery_laravel.stores.records import FailedJob

_OF_THE_OLD_MESSAGE = ("expires", "eta", "countdown", "retries", "redelivered", "is_eager")
"""Options of the message that failed which would revoke, delay, exhaust or belie the new one."""


def retry_failed_job(app: Celery, job: FailedJob) -> None:
    """Send a failed job again, under its id and from attempt 1, and forget its record.

    A member of a batch is made pending first, with the rest of its chain. The
    record goes last: a crash on the way leaves it there, and the job can be
    retried once more.

    Raises:
        ContentDisallowed: Its payload is in a serializer that ``accept_content`` does not name.
    """
    signature = signature_of(app, job)
    header = read_header(signature.options.get("headers"))
    task = app.tasks.get(job.task)
    deadline = None
    if task is not None and getattr(task, "job_options", None) is not None and task.job_options.retry_until is not None:
        deadline = deadline_of(task, signature.args, signature.kwargs)
    if header.batch_id is not None and header.index is not None:
        rest = members_of(signature.options.get("chain"), header.batch_id) + members_of(
            signature.options.get("chord"), header.batch_id
        )
        store_of(app).batches.revive(header.batch_id, header.index, job_id=job.id, skips=rest)
    signature.options["headers"] = with_header(signature.options.get("headers"), header.afresh(deadline=deadline))
    events.send(events.job_retry_requested, task, task_id=job.id, args=signature.args, kwargs=signature.kwargs)
    signature.apply_async()
    failed_jobs_of(app).forget(job.id)


def signature_of(app: Celery, job: FailedJob) -> Signature:
    """The signature that a failed job's record keeps."""
    payload: Any = job.payload
    body = base64.b64decode(payload["body"]) if payload["is_base64"] else payload["body"]
    accept = {registry.name_to_type.get(name, name) for name in app.conf.accept_content}
    data = loads(body, payload["content_type"], payload["content_encoding"], accept=accept)
    signature = Signature.from_dict(data, app=app)
    for option in _OF_THE_OLD_MESSAGE:
        signature.options.pop(option, None)
    return signature
