"""How many messages wait in the broker, and how many it has recorded as held by somebody."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery import Celery


@dataclass(frozen=True)
class Messages:
    """``waiting`` is by queue, and knows the queues that are there.

    ``held`` are those that were delivered and not acknowledged, by living
    workers or dead ones; None where the broker does not tell.
    """

    waiting: Mapping[str, int] = field(default_factory=dict)
    held: int | None = None


def queues_of(app: Celery) -> set[str]:
    """The queues that the app declares, and those that its tasks are routed to."""
    return {*app.amqp.queues, *_routed_to(app)}


def count_messages(app: Celery, names: Iterable[str]) -> Messages:
    """Count the messages of these queues.

    Raises:
        Exception: The broker's error; it cannot be reached.
    """
    waiting: dict[str, int] = {}
    held = None
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
        for name in sorted(names):
            channel = connection.channel()  # a queue that is not there closes its channel
            try:
                waiting[name] = channel.queue_declare(queue=name, passive=True).message_count
            except (*connection.channel_errors, KeyError):
                continue
            finally:
                if channel.connection is not None:
                    held = _held(channel)
                    channel.close()
    return Messages(waiting, held)


def _routed_to(app: Celery) -> set[str]:
    """The queues that ``task_routes`` names; those of a router that is a function are not known."""
    routes = app.conf.task_routes
    found: set[str] = set()
    for route in routes if isinstance(routes, (list, tuple)) else [routes]:
        for target in route.values() if isinstance(route, dict) else ():
            queue = target.get("queue") if isinstance(target, dict) else target
            if isinstance(queue, str):
                found.add(queue)
    return found


def _held(channel: Any) -> int | None:
    """On Redis, kombu and this library record there what was delivered."""
    if not hasattr(channel, "unacked_key"):
        return None
    with channel.conn_or_acquire() as client:
        return int(client.hlen(channel.unacked_key))
