"""A running job's message, sent once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Task

from celery_laravel.message.arguments import ExceptionArgument
from celery_laravel.message.exceptions import exception_to_data
from celery_laravel.message.header import with_header

if TYPE_CHECKING:
    from celery.canvas import Signature

    from celery_laravel.message.header import Header


def resend(  # noqa: PLR0917  those of Celery's `signature_from_request`, which this stands in for
    task: Any,
    request: Any,
    header: Header,
    args: Any = None,
    kwargs: Any = None,
    queue: str | None = None,
    **options: Any,
) -> Signature:
    """The signature that sends a running request's message again, with another header of this library's.

    Celery keeps the id, the routing, the priority, the expiry and what follows
    the job. Kept beside that are the serializer and the compression that the
    dispatch asked for; headers that brokers write on a delivery are dropped. The
    exception among a callback's arguments leaves as data again.
    """
    if header.callback is not None:
        args = [_as_sent(value) for value in (request.args or () if args is None else args)]
    signature = Task.signature_from_request(task, request, args, kwargs, queue, **options)
    signature.options["headers"] = with_header(signature.options.get("headers"), header)
    compression = request.get("compression")
    for name, value in (("serializer", header.serializer), ("compression", compression)):
        if value is not None:
            signature.options.setdefault(name, value)
    return signature


def _as_sent(value: Any) -> Any:
    return ExceptionArgument(exception_to_data(value)) if isinstance(value, BaseException) else value
