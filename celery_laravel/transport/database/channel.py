"""What kombu calls a channel: publishing, and delivering from the queues it consumes."""

from __future__ import annotations

from itertools import count
from queue import Empty
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from amqp.protocol import queue_declare_ok_t
from kombu.transport import virtual
from kombu.transport.base import to_rabbitmq_queue_arguments

from celery_laravel import clock
from celery_laravel.transport.database.consuming import Consuming
from celery_laravel.transport.database.payload import encode, with_text
from celery_laravel.transport.database.publish_batch import PublishBatch
from celery_laravel.transport.database.qos import QoS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_laravel.transport.database.messages import Messages, NewMessage
    from celery_laravel.transport.database.news import Version
    from celery_laravel.transport.database.queues import Binding, Queues

# A queue that is to vanish with its users has this many seconds to be used again, unless it says otherwise.
AUTO_DELETE_AFTER = 60.0


class Channel(virtual.Channel):
    """A channel of the database broker.

    Publishing is safe from several threads. Delivering is for one thread at a
    time, as with every channel; acknowledging may happen in any.
    """

    QoS = QoS
    supports_fanout = True
    supports_batch_publish = True

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.messages: Messages = connection.messages
        self.queues: Queues = connection.queues
        self.expiring: dict[str, float] = {}
        self.no_ack_queues: set[str] = set()
        super().__init__(connection, **kwargs)
        self._lease_prefix = uuid4().hex
        self._lease_numbers = count(1)
        self._renewed_at = 0.0
        self._consuming = Consuming(self, connection.database)

    # -- publishing

    def _put(self, queue: str, message: dict[str, Any], _publish_batch: PublishBatch | None = None, **_: Any) -> None:
        self._store([self._row(queue, message)], _publish_batch)

    def _put_fanout(
        self,
        exchange: str,
        message: dict[str, Any],
        routing_key: str,
        _publish_batch: PublishBatch | None = None,
        **_: Any,
    ) -> None:
        queues = sorted({queue for _, _, queue in self.queues.bindings(exchange)})
        self._store([self._row(queue, message) for queue in queues], _publish_batch)

    def _row(self, queue: str, message: dict[str, Any]) -> NewMessage:
        return encode(queue, message, priority=self._get_message_priority(message))

    def _store(self, rows: list[NewMessage], batch: PublishBatch | None) -> None:
        if batch is None:
            self.messages.publish(rows)
        else:
            batch.add(rows)

    def put_many(self, letters: Sequence[tuple[str, dict[str, Any], str | None]]) -> None:
        """Store messages for their queues in one transaction: all, or none.

        Each comes with its text, or with None to have it made. Messages given
        with the same object are alike in priority and ETA.
        """
        rows: list[NewMessage] = []
        alike: dict[int, NewMessage] = {}
        for queue, message, text in letters:
            row = alike.get(id(message)) or alike.setdefault(id(message), self._row(queue, message))
            rows.append(row if text is None else with_text(row, text))
        self.messages.publish(rows)

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Begin a batch; called by kombu's ``Producer.batch()``."""
        return PublishBatch(self, max_size)

    # -- consuming

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> None:
        """Begin to deliver from a queue; with ``no_ack`` a message is removed as it is delivered."""
        super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        (self.no_ack_queues.add if no_ack else self.no_ack_queues.discard)(queue)
        self.connection.start_keeper()
        self.connection.start_ticking()

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """One message of a queue, or None."""
        reserved = self.messages.take(queue, 1) if no_ack else self.messages.reserve(queue, 1, lease=self.new_lease())
        raw = self._consuming.decode(reserved[0]) if reserved else None
        if raw is None:
            return None
        message = self.Message(raw, channel=self)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
            self.connection.start_keeper()
        return message

    def drain_events(self, timeout: float | None = None, callback: Callable[[Any, str], Any] | None = None) -> None:
        """Deliver one message, or raise ``Empty``."""
        deliver = callback or self.connection._deliver  # noqa: SLF001 - kombu's own way to a consumer
        if not self._consumers or not self.deliver(deliver, 1, self.connection.database.news.version()):
            raise Empty

    def deliver(self, callback: Callable[[Any, str], Any], limit: int, version: Version) -> int:
        """Deliver up to ``limit`` messages, as far as the prefetch limit leaves room, and say how many.

        ``version`` is the database's, read by the caller a moment ago.
        """
        return self._consuming.deliver(callback, limit, version) if self._consumers else 0

    @property
    def has_more(self) -> bool:
        """Whether the last look at the queues ended with more to fetch."""
        return bool(self._consumers) and self._consuming.has_more and self.qos.can_consume()

    @property
    def active_queues(self) -> list[str]:
        """The queues this channel consumes, in the order they were asked for."""
        return list(dict.fromkeys(self._active_queues))

    def new_lease(self) -> str:
        """A token for one reservation, never used before."""
        return f"{self._lease_prefix}-{next(self._lease_numbers)}"

    def _reset_cycle(self) -> None:
        self._consuming.forget()

    # -- queues and exchanges

    def prepare_queue_arguments(self, arguments: dict[str, Any], **kwargs: Any) -> Any:
        """Hand ``expires`` on to `queue_declare`, in RabbitMQ's terms."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> queue_declare_ok_t:
        """Declare a queue, or ask how many messages of it could be delivered now; asking changes nothing."""
        if passive and queue and self._has_queue(queue):
            return queue_declare_ok_t(queue, self._size(queue), 0)
        return super().queue_declare(queue, passive, **kwargs)

    def _new_queue(
        self, queue: str, auto_delete: bool = False, arguments: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        expires_after = AUTO_DELETE_AFTER if auto_delete else None
        expires = (arguments or {}).get("x-expires")
        if expires is not None:
            expires_after = float(expires) / 1000
        if expires_after is not None:
            self.expiring[queue] = expires_after
        self.queues.declare(queue, expires_after=expires_after)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self.queues.exists(queue)

    def _size(self, queue: str) -> int:
        return self.messages.count_ready(queue)

    def _purge(self, queue: str) -> int:
        return self.messages.purge(queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> None:
        """Remove a queue with its bindings and messages, whichever process declared it."""
        if if_empty and self._size(queue):
            return
        self.queues.delete(queue)
        self.expiring.pop(queue, None)
        self.state.queue_bindings_delete(queue)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        self.queues.bind(exchange, routing_key, pattern, queue)

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Stop an exchange from delivering to a queue."""
        exchange = exchange or "amq.direct"
        self.state.binding_delete(queue, exchange, routing_key)
        self.queues.unbind(exchange, routing_key, queue)

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Remove an exchange and its bindings; the queues stay."""
        self.queues.forget_exchange(exchange)
        self.state.exchanges.pop(exchange, None)

    def get_table(self, exchange: str) -> list[Binding]:
        """What is bound to an exchange by any process; read each time, as others bind at any time."""
        return self.queues.bindings(exchange)

    # -- staying alive

    def settle_owed(self) -> None:
        """Make up for acknowledgements that are owed."""
        if self._qos is not None:
            self._qos.settle_owed()

    def renew(self) -> None:
        """Tell the database that this channel's messages and queues are in use.

        It is called more often than leases need: queues may be short-lived.
        A queue that expired meanwhile, while the machine slept for instance,
        is declared and bound again; what was sent to it in between is lost.
        """
        if self._qos is not None:
            self._qos.settle_owed()
            now, timeout = clock.now(), self.messages.visibility_timeout
            if abs(now - self._renewed_at) >= timeout / 3:
                self.messages.renew(self._qos.leases())
                self._renewed_at = now
        mine = {queue: self.expiring[queue] for queue in self.active_queues if queue in self.expiring}
        for queue in self.queues.renew(mine) if mine else ():
            self.queues.declare(queue, expires_after=mine[queue])
            for exchange, routing_key, arguments in list(self.state.queue_bindings(queue)):
                bound = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
                self.queues.bind(exchange, *bound)
