"""A running job's message, sent once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from celery import Task
from kombu.exceptions import EncodeError
from kombu.serialization import registry

from celery_laravel.message.arguments import ExceptionArgument
from celery_laravel.message.exceptions import exception_to_data
from celery_laravel.message.header import with_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.canvas import Signature

    from celery_laravel.message.header import Header

Made = TypeVar("Made")


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


def delivery_options(request: Any) -> dict[str, Any]:
    """Where a running request's message came from, as options that send another message there."""
    delivery = request.delivery_info or {}
    options = {name: delivery[name] for name in ("exchange", "routing_key") if delivery.get(name)}
    if "routing_key" in options and "exchange" not in options:  # of the exchange that every queue is bound to
        options = {"queue": options["routing_key"]}
    if delivery.get("priority") is not None:
        options["priority"] = delivery["priority"]
    return options


def in_first_serializer(task: Any, signature: Signature, header: Header, encode: Callable[[str], Made]) -> Made:
    """What ``encode`` makes of a signature in the first serializer that can carry it, whose name the signature gets.

    The one it came in is tried first, where that is known, then all that the
    app accepts: a plain dispatch with a serializer of its own leaves no word of
    it in the message that the task could see.

    Raises:
        EncodeError: None can.
    """
    unencodable: EncodeError | None = None
    names = [header.serializer or task.serializer or "json", *task.app.conf.accept_content]
    for name in dict.fromkeys(registry.type_to_name.get(name, name) for name in names):
        if name not in registry.name_to_type:
            continue
        signature.options["serializer"] = name
        try:
            return encode(name)
        except EncodeError as error:
            unencodable = unencodable or error
    raise unencodable or EncodeError(f"None of the serializers in accept_content is known for {task.name!r}.")


def send_again(task: Any, signature: Signature, header: Header) -> None:
    """Publish what `resend` made, in the first serializer that can carry it.

    Raises:
        EncodeError: None can; nothing was published.
        Exception: Whatever keeps it from being published.
    """
    in_first_serializer(task, signature, header, lambda _: _publish(task, signature))


def _publish(task: Any, signature: Signature) -> None:
    """Publish a job again, even if its arguments do not fit the task any more: it fails by that when it starts.

    A dispatch refuses such arguments; a message that is there already would come
    again and again.
    """
    try:
        signature.apply_async()
    except TypeError:
        if not task.typing:
            raise
        task.app.send_task(task.name, signature.args, signature.kwargs, task_type=task, **signature.options)


def _as_sent(value: Any) -> Any:
    return ExceptionArgument(exception_to_data(value)) if isinstance(value, BaseException) else value
