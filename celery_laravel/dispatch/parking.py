"""Long delays: a message that is not due for a while waits in the store, and not in a worker's memory.

This is done where Celery hands a finished message to its producer, so that
whatever is published passes: jobs sent by task, by name, by beat, by a chain or
a retry. Signals, events, routing, serializing and the declaring of queues are
Celery's, before and after; what is kept is the message that would have gone
out, less its ETA.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from functools import partial, wraps
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery._state import get_current_task
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.utils.json import dumps

from celery_laravel import clock
from celery_laravel.dispatch.outbox import Outbox, is_redis, list_of
from celery_laravel.errors import CeleryLaravelError
from celery_laravel.message.amqp import change_amqp
from celery_laravel.message.parked import Published
from celery_laravel.settings import settings_of
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import NewDelay
from celery_laravel.stores.servers import server_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Celery

    from celery_laravel.stores.contracts import DelayStore

logger = logging.getLogger("celery_laravel.delays")

_TOLERANCE = 0.1
"""A delay is measured a moment after it was counted from: so many seconds may be missing."""

_MECHANICS = frozenset(
    (
        *("serializer", "compression", "content_type", "content_encoding", "retry", "retry_policy"),
        *("declare", "timeout", "confirm_timeout", "headers", "exchange", "routing_key", "delivery_mode"),
    )
)
"""What is said to `kombu.Producer.publish` that is done with when the message is made, or kept beside its options."""


_UNKNOWN = object()


def park_long_delays(app: Celery) -> None:
    """Have an app's long delays wait in its store, from now on. No setting is read before there is one."""
    change_amqp(app, _give_parking)


def _give_parking(amqp: Any) -> None:
    app: Celery = amqp.app
    sender: Any = amqp.__dict__.get("send_task_message")  # a cached property, which reads the configuration
    latest = _Latest()

    def send_task_message(producer: Any, name: str, message: Any, *args: Any, **options: Any) -> Any:
        nonlocal sender
        if sender is None:
            sender = amqp._create_task_sender()  # noqa: SLF001  what the property calls
        if message[0].get("eta") is not None:
            producer = ParkingProducer(app, producer, latest.made_at(message[0]))
        return sender(producer, name, message, *args, **options)

    amqp.send_task_message = send_task_message
    amqp.task_protocols = {**amqp.task_protocols, 2: latest.noticing(amqp.task_protocols[2])}


class _Latest(threading.local):
    """The headers that this thread has made last, and when: a first dispatch connects before it gets to publish."""

    headers: Any = None
    at = 0.0

    def noticing(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """What makes messages, with an eye on those that are delayed."""

        @wraps(make)
        def make_message(*args: Any, **options: Any) -> Any:
            message = make(*args, **options)
            if message[0].get("eta") is not None:
                self.headers, self.at = message[0], clock.now()
            return message

        return make_message

    def made_at(self, headers: Any) -> float:
        """When these headers were made; now, where somebody else made them."""
        at = self.at if headers is self.headers else clock.now()
        self.headers = None
        return at


class ParkingProducer:
    """A producer that parks a task's message if it is delayed for long, and publishes everything else."""

    def __init__(self, app: Celery, producer: Any, made_at: float) -> None:
        self._app = app
        self._producer = producer
        self._made_at = made_at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **options: Any) -> Any:
        """Publish a message, now or when it is due.

        A job that is run by this process and puts itself back is never lost for
        want of the store: its message then waits in a worker, as under plain
        Celery.

        Raises:
            StoreUnavailableError: The store did not answer; nothing has been sent.
        """
        headers = options.get("headers") or {}
        delay = self._delay(headers)
        if delay is None:
            return self._producer.publish(body, **options)
        waiting = {**options, "headers": {**headers, "eta": None}}
        try:
            self._park(delay, body, waiting)
        except CeleryLaravelError as error:
            if not _is_running(headers.get("id")):
                raise
            logger.warning("Job %s waits in a worker and not in the store: %s", headers.get("id"), error)
            return self._producer.publish(body, **options)
        return None

    def _delay(self, headers: Mapping[str, Any]) -> timedelta | None:
        """How long a message is to wait in the store; None where it is not to."""
        shortest = settings_of(self._app).durable_delay
        if shortest is None or headers.get("eta") is None or "task" not in headers:
            return None
        try:
            eta = maybe_iso8601(headers["eta"])
        except (AttributeError, ValueError, TypeError):
            return None  # the worker refuses it, and says why
        if not isinstance(eta, datetime):
            return None
        due = maybe_make_aware(eta, self._app.timezone).timestamp()
        if due <= self._made_at or due < self._made_at + shortest - _TOLERANCE or not self._serves():
            return None
        return timedelta(seconds=max(0.0, due - clock.now()))

    def _serves(self) -> bool:
        """Whether a worker of the app will find in the store what is parked there, and can publish it then."""
        connection = self._producer.connection
        transport = connection.transport
        if getattr(transport, "keeps_delays", False):
            return False
        is_within_process = settings_of(self._app).store.startswith("memory:")
        if is_within_process and transport.driver_type != "memory":
            return False
        return _name_of(self._app, connection) is not _UNKNOWN

    def _park(self, delay: timedelta, body: Any, options: dict[str, Any]) -> None:
        delays = store_of(self._app).delays
        make = partial(_new_delay, delay, options)
        if self._is_on_server_of(delays, options.get("exchange")):
            parked = self._as_pushed(make, body, options)
        else:
            parked = [make(self._queue_of(options), self._as_published(body, options))]
        outbox = Outbox.of(self._producer.channel)
        if outbox is None:
            delays.park(parked)
        else:
            outbox.delay_store = delays
            outbox.delays += parked

    def _is_on_server_of(self, delays: DelayStore, exchange: Any) -> bool:
        """Whether the store can push the message to its queue by itself."""
        channel = self._producer.channel
        if delays.server is None or not is_redis(channel) or getattr(channel, "_expires", None):
            return False
        if server_of(channel.pool) != delays.server:
            return False
        return exchange_type_of(channel, getattr(exchange, "name", exchange)) != "fanout"

    def _as_pushed(self, make: partial[NewDelay], body: Any, options: dict[str, Any]) -> list[NewDelay]:
        """The message as it would have been put into each of its queues."""
        letters: list[tuple[str, Any, str | None]] = []

        def publish() -> None:
            outbox = Outbox(self._producer)
            channel = self._producer.channel  # another one once the connection was lost
            with outbox.instead_of_queueing(channel):
                self._producer.publish(body, **{**options, "retry": False})
            letters[:] = outbox.letters

        if options.get("retry"):
            connection, policy = self._producer.connection, options.get("retry_policy") or {}
            connection.ensure(self._producer, publish, **policy)()
        else:
            publish()
        channel = self._producer.channel
        prefix = getattr(channel, "global_keyprefix", "")
        return [
            make(queue, dumps(message), target=prefix + list_of(channel, queue, message))
            for queue, message, _ in letters
        ]

    def _as_published(self, body: Any, options: dict[str, Any]) -> str:
        """The message as it is to be published; its queue is declared now, as a plain publish would."""
        producer = self._producer
        retry, policy = options.get("retry"), options.get("retry_policy") or {}
        for entity in options.get("declare") or ():
            producer.maybe_declare(entity, retry=retry, **policy)
        headers = options["headers"]
        compression = options.get("compression") or producer.compression
        exchange, delivery_mode = producer._delivery_details(  # noqa: SLF001  what `publish` itself calls
            options.get("exchange") or producer.exchange, options.get("delivery_mode")
        )
        body, content_type, content_encoding = producer._prepare(  # noqa: SLF001  likewise
            body,
            options.get("serializer"),
            options.get("content_type"),
            options.get("content_encoding"),
            compression,
            headers,
        )
        rest = {key: value for key, value in options.items() if key not in _MECHANICS and value is not None}
        routing_key = options.get("routing_key")
        routing_key = producer.routing_key if routing_key is None else routing_key
        rest["delivery_mode"] = delivery_mode
        message = Published(
            body,
            content_type,
            content_encoding,
            headers,
            exchange,
            exchange_type_of(producer.channel, exchange),
            routing_key,
            rest,
            _name_of(self._app, producer.connection),
        )
        return message.as_text()

    def _queue_of(self, options: Mapping[str, Any]) -> str:
        """The name of the queue a message is for; of its routing key where none was declared for it."""
        for entity in options.get("declare") or ():
            if getattr(entity, "routing_key", None) is not None and entity.name:
                return str(entity.name)
        return str(options.get("routing_key") or "")


def _new_delay(
    delay: timedelta, options: Mapping[str, Any], queue: str, message: str, target: str | None = None
) -> NewDelay:
    headers = options["headers"]
    return NewDelay(uuid4().hex, str(headers["id"]), str(headers["task"]), queue, message, delay, target)


def exchange_type_of(channel: Any, exchange: str | None) -> str | None:
    """The type of an exchange as one of kombu's virtual channels has it; None elsewhere, and for the default one."""
    return str(channel.typeof(exchange).type) if exchange and hasattr(channel, "typeof") else None


def _is_running(task_id: Any) -> bool:
    """Whether this process is running the job, so that what is sent puts it back."""
    task = get_current_task()
    return task is not None and task_id is not None and task.request.id == task_id


def _name_of(app: Celery, connection: Any) -> Any:
    """The name of the app's connection that leads where another does, None for its own; or `_UNKNOWN`."""
    address = _address(connection)
    if _address(app.connection_for_write()) == address:
        return None
    named = settings_of(app).connections.items()
    return next((name for name, url in named if _address(app.connection_for_write(url)) == address), _UNKNOWN)


def _address(connection: Any) -> Any:
    if connection.alt:  # several brokers, of which it may have any
        return sorted(connection.alt)
    info = connection.info()
    return [info[name] for name in ("transport", "hostname", "port", "virtual_host")]
