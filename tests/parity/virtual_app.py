"""A Celery app with a broker and a time of its own."""

from __future__ import annotations

from datetime import datetime, timezone

from celery import Celery
from kombu.transport import memory
from kombu.transport.virtual import BrokerState

from celery_laravel import clock, install


class _VirtualApp(Celery):
    """An app whose delays are counted from the virtual present."""

    def now(self) -> datetime:
        return datetime.fromtimestamp(clock.now(), tz=timezone.utc)


def virtual_app(store: str, prefix: str) -> Celery:
    """An app with a broker of its own: kombu's in memory keeps its queues in class attributes."""
    channel = type("Channel", (memory.Channel,), {"queues": {}, "events": set()})
    transport = type("Transport", (memory.Transport,), {"Channel": channel, "global_state": BrokerState()})
    app = _VirtualApp("parity", broker="memory://", broker_transport=transport)
    app.conf.update(
        broker_transport=transport,
        task_default_queue="default",
        laravel_store=store,
        laravel_prefix=prefix,
        laravel_durable_delay=None,
        laravel_tries=1,
    )
    return install(app)
