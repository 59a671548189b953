"""Jobs that expire: a worker settles them, and no broker drops their messages unseen."""

from __future__ import annotations

from typing import Any

from celery_laravel.message.header import NAME


def deliver_expired(send: Any, producer: Any, name: str, message: Any, *args: Any, **options: Any) -> Any:
    """Send a message so that it is delivered after its ``expires``, where a lock, a batch or a chain waits for the job.

    Celery also sends ``expires`` as the message's own time to live, and
    RabbitMQ drops what outlives that: no worker would learn that the job has
    expired. Without it the worker does, by the message's header, and settles
    the job like one that was revoked. Messages without the library's header
    are sent as Celery makes them.
    """
    if NAME in (options.get("headers") or ()):  # which the sender adds to those of the message
        options.pop("expiration", None)
    return send(producer, name, message, *args, **options)
