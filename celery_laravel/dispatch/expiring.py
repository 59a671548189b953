"""Jobs that expire: a worker settles them, and no broker drops their messages unseen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from celery_laravel.message.amqp import change_amqp
from celery_laravel.message.header import NAME

if TYPE_CHECKING:
    from celery import Celery

_changed: WeakSet[Celery] = WeakSet()


def deliver_expired_jobs(app: Celery) -> None:
    """Have an app's messages delivered after their ``expires``, where a lock, a batch or a chain waits for the job.

    Celery also sends ``expires`` as the message's own time to live, and
    RabbitMQ drops what outlives that: no worker would learn that the job has
    expired. Without it the worker does, by the message's header, and settles
    the job like one that was revoked. Messages without the library's header
    are sent as Celery makes them. Twice is once.
    """
    if app in _changed:
        return
    _changed.add(app)
    change_amqp(app, _keep_from_dropping)


def _keep_from_dropping(amqp: Any) -> None:
    sender: Any = amqp.__dict__.get("send_task_message")  # a cached property, which reads the configuration

    def send_task_message(producer: Any, name: str, message: Any, *args: Any, **options: Any) -> Any:
        nonlocal sender
        if sender is None:
            sender = amqp._create_task_sender()  # noqa: SLF001  what the property calls
        if NAME in (options.get("headers") or ()):  # which the sender adds to those of the message
            options.pop("expiration", None)
        return sender(producer, name, message, *args, **options)

    amqp.send_task_message = send_task_message
