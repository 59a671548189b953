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
    workers or dead ones, and those that the broker itself delays; by queue, or
    under an empty name where that is one number for all, and empty where the
    broker does not tell.
    """

    waiting: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)

    def with_those_of(self, others: Messages) -> Messages:
        """These, and those of other queues."""
        return Messages({**self.waiting, **others.waiting}, {**self.held, **others.held})


def queues_of(app: Celery) -> set[str]:
    """The queues that the app declares, and those that its tasks are routed to."""
    return {*app.amqp.queues, *_routed_to(app)}


def count_messages(app: Celery, names: Iterable[str]) -> Messages:
    """Count the messages of these queues.

    Raises:
        Exception: The broker's error; it cannot be reached.
    """
    waiting: dict[str, int] = {}
    held: dict[str, int] = {}
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
        for name in sorted(names):
            channel = connection.channel()  # a queue that is not there closes its channel
            try:
                waiting[name] = channel.queue_declare(queue=name, passive=True).message_count
            except connection.channel_errors:
                continue
            finally:
                if channel.connection is not None:
                    held |= _held(channel, name)
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


def _held(channel: Any, queue: str) -> dict[str, int]:
    """On Redis, what was delivered is recorded in one place for all queues; the database broker leaves it there."""
    if hasattr(channel, "unacked_key"):
        with channel.conn_or_acquire() as client:
            return {"": int(client.hlen(channel.unacked_key))}
    if hasattr(channel, "messages"):
        return {queue: channel.messages.count_hidden(queue)}
    return {}
