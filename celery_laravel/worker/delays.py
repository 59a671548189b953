"""Jobs that waited in the store, on their way to their queues; and the memory of those revoked while they waited."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kombu import Exchange

from celery_laravel.errors import CeleryLaravelError, ConfigurationError, InvalidMessageError
from celery_laravel.message.parked import Published
from celery_laravel.settings import settings_of
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from celery import Celery

    from celery_laravel.stores.contracts import DelayStore
    from celery_laravel.stores.records import DelayRecord

logger = logging.getLogger("celery_laravel.delays")

MOVED_AT_ONCE = 250
"""Messages that a store pushes in one step: a few milliseconds, for which its server serves nobody else."""
CLAIMED_AT_ONCE = 100
LEASE = timedelta(seconds=30)
"""For how long nobody else publishes what was claimed: longer than publishing it takes."""


class BrokerGoneError(CeleryLaravelError):
    """The broker does not take what is due. It is published later, so nobody but the log is told."""


class Mover:
    """Moves an app's delayed jobs that are due. One thread's; any number of processes may have one."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._producers: dict[str | None, Any] = {}

    def move(self) -> bool:
        """Move some of what is due; True when there may be more.

        Raises:
            StoreUnavailableError: The store did not answer.
            BrokerGoneError: The broker does not take what was claimed,
                which is published when the claim has run out.
        """
        delays = store_of(self._app).delays
        moved = delays.move(limit=MOVED_AT_ONCE)
        claimed = delays.claim(limit=CLAIMED_AT_ONCE, lease=LEASE)
        if claimed:
            self._publish(delays, claimed)
        return moved == MOVED_AT_ONCE or len(claimed) == CLAIMED_AT_ONCE

    def close(self) -> None:
        """Close the connections to brokers, if there are any."""
        producers, self._producers = self._producers, {}
        for producer in producers.values():
            producer.connection.release()

    def _publish(self, delays: DelayStore, claimed: list[DelayRecord]) -> None:
        """Publish messages, and forget those that the broker has; each that it does not take is left for later."""
        published: list[str] = []
        try:
            for record in claimed:
                if self._publish_one(record):
                    published.append(record.entry)  # noqa: PERF401  each as it goes out, should a later one raise
        finally:
            delays.remove(published)

    def _publish_one(self, record: DelayRecord) -> bool:
        try:
            message = Published.from_text(record.message)
            producer = self._producer_of(message.connection)
        except (InvalidMessageError, ConfigurationError):
            logger.exception("The delayed job %s (%s) cannot be sent", record.job_id, record.task)
            return False
        connection = producer.connection
        try:
            producer.publish(
                message.body,
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                headers=dict(message.headers),
                exchange=message.exchange,
                routing_key=message.routing_key,
                declare=self._declared(record.queue, message, producer.channel),
                **message.options,
            )
        except (*connection.connection_errors, OSError) as error:
            self.close()
            raise BrokerGoneError(f"the broker at {connection.as_uri()} does not answer ({error})") from error
        except Exception:  # of this message: an exchange that is gone, a header that the broker refuses
            logger.exception("The delayed job %s (%s) cannot be sent; it is tried again", record.job_id, record.task)
            self.close()
            return False
        return True

    def _declared(self, queue: str, message: Published, channel: Any) -> list[Any]:
        """The queue, where this worker knows it: it may have gone meanwhile. The exchange, where nobody else does."""
        queues, entities = self._app.amqp.queues, []
        if queue in queues:
            entities.append(queues[queue])
        if message.exchange_type is not None and message.exchange not in channel.state.exchanges:
            entities.append(Exchange(message.exchange, message.exchange_type))
        return entities

    def _producer_of(self, name: str | None) -> Any:
        """A producer on a connection of this mover's own.

        RabbitMQ is to say that it has a message before the store forgets it.

        Raises:
            ConfigurationError: The app has no connection of that name.
        """
        producer = self._producers.get(name)
        if producer is None:
            urls = settings_of(self._app).connections
            if name is not None and name not in urls:
                raise ConfigurationError(
                    f"The setting 'laravel_connections' of this worker has no name {name!r}. Add it."
                )
            connection = self._app.connection_for_write(None if name is None else urls[name])
            if connection.get_transport_cls().driver_type == "amqp":
                connection.transport_options = {**(connection.transport_options or {}), "confirm_publish": True}
            producer = self._producers[name] = self._app.amqp.Producer(connection, auto_declare=False)
        return producer
