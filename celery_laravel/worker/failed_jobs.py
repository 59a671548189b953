"""The record of a job that failed for good: all that is needed to run it again."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from celery.utils.saferepr import saferepr
from kombu.serialization import dumps

from celery_laravel import clock
from celery_laravel.message.exceptions import describe
from celery_laravel.message.payload import pack_payload
from celery_laravel.message.resend import in_first_serializer
from celery_laravel.settings import own_connection
from celery_laravel.stores.records import FailedJob

if TYPE_CHECKING:
    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.message.header import Header

DEFAULT_CONNECTION = "default"


def capture(task: Any, request: Any, running: RunningJob, error: BaseException) -> FailedJob:
    """Make the record of a job that failed with ``error``.

    The payload is the signature that Celery makes of the running request
    (arguments, headers, routing, callbacks, the rest of its chain, its chord),
    in the first serializer that can carry it, so whatever could travel can be
    kept.

    Raises:
        EncodeError: None can.
    """
    return FailedJob(
        id=running.id,
        connection=own_connection(task.app) or DEFAULT_CONNECTION,
        queue=queue_of(request) or task.app.conf.task_default_queue,
        task=task.name,
        args_repr=getattr(request, "argsrepr", None) or saferepr(request.args or ()),
        kwargs_repr=getattr(request, "kwargsrepr", None) or saferepr(request.kwargs or {}),
        exception=describe(error),
        traceback="".join(traceback.format_exception(type(error), error, error.__traceback__)),
        failed_at=clock.as_datetime(clock.now()),
        attempts=running.counts.attempt - running.is_refused,
        batch_id=running.header.batch_id,
        payload=payload_of(task, request, running.header),
    )


def payload_of(task: Any, request: Any, header: Header) -> dict[str, Any]:
    """All that is needed to run a request's job again, as text (`celery_laravel.dispatch.failed_jobs.signature_of`).

    Raises:
        EncodeError: No serializer can carry it.
    """
    signature = task.signature_from_request(request)
    return in_first_serializer(
        task,
        signature,
        header,
        lambda serializer: pack_payload(*dumps(dict(signature), serializer=serializer)),
    )


def queue_of(request: Any) -> str | None:
    """The queue a message came from, as far as its delivery tells: its routing key, else its exchange."""
    delivery = request.delivery_info or {}
    return delivery.get("routing_key") or delivery.get("exchange") or None
