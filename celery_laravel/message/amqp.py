"""Where an app makes its messages and its connections."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery.utils.imports import instantiate

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

_ways: WeakKeyDictionary[Celery, list[Callable[..., Any]]] = WeakKeyDictionary()


def change_amqp(app: Celery, change: Callable[[Any], None]) -> None:
    """Have ``change`` called with the app's ``amqp``: once it is made, or now if it is there. No setting is read."""
    app.amqp_cls = partial(_make, app.amqp_cls, change)
    if "amqp" in app.__dict__:  # a cached property
        change(app.amqp)


def send_by(app: Celery, way: Callable[..., Any]) -> None:
    """Have an app's messages of tasks sent by ``way``, which is given the sender that there was, and its arguments.

    Ways that are added later are around those that were there. Twice is once.
    """
    ways = _ways.setdefault(app, [])
    if way not in ways:
        ways.append(way)
        change_amqp(app, partial(_put_around, way))


def _put_around(way: Callable[..., Any], amqp: Any) -> None:
    sender: Any = amqp.__dict__.get("send_task_message")  # a cached property, which reads the configuration

    def send_task_message(*args: Any, **options: Any) -> Any:
        nonlocal sender
        if sender is None:
            sender = amqp._create_task_sender()  # noqa: SLF001  what the property calls
        return way(sender, *args, **options)

    amqp.send_task_message = send_task_message


def _make(cls: Any, change: Callable[[Any], None], app: Celery) -> Any:
    amqp = instantiate(cls, app=app)
    change(amqp)
    return amqp
