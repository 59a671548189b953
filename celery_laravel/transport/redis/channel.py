"""kombu's Redis channels, which reserve in one step instead of taking first and recording later."""

from __future__ import annotations

from contextlib import contextmanager
from queue import Empty
from typing import TYPE_CHECKING, Any

from kombu.log import get_logger
from kombu.transport import redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from celery_laravel.transport.redis.errors import is_passing
from celery_laravel.transport.redis.held import Held, UnroutableError
from celery_laravel.transport.redis.poller import WAKE_UP
from celery_laravel.transport.redis.qos import QoS
from celery_laravel.transport.redis.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_laravel.transport.redis.wake_up import WakeUp


logger = get_logger(__name__)
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_Base: Any = object  # mixed in before one of kombu's classes


@contextmanager
def _full_is_away() -> Iterator[None]:
    """Make of a refusal that will pass what a worker tries again after; of others it dies."""
    try:
        yield
    except ResponseError as error:
        if not is_passing(error):
            raise
        raise RedisConnectionError(f"The server takes no writes for now: {error}") from error


class Reserving(_Base):
    """What the channels of both transports share: how messages are got and kept.

    Publishing, queues, exchanges, fanout and the format of everything in Redis
    are kombu's. So is consuming without acknowledgements: there is nothing to
    keep. Deliveries are for one thread at a time, as with every channel;
    settling may happen in any.
    """

    QoS = QoS

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.held = Held(self)
        self.reservation = Reservation(self)
        self.no_ack_queues: set[str] = set()
        self._client_of_pool: tuple[Any, Any] = (None, None)
        super().__init__(connection, **kwargs)
        self.handlers[WAKE_UP] = self._on_wake_up

    def _create_client(self, asynchronous: bool = False) -> Any:
        """A client, made once for each pool: it keeps nothing of its own, and takes longer to make than to publish."""
        if asynchronous:
            return super()._create_client(asynchronous=True)
        pool, client = self._client_of_pool
        if client is None or pool is not self.pool:
            client = super()._create_client()
            self._client_of_pool = (self.pool, client)
        return client

    def queue_declare(self, *args: Any, **kwargs: Any) -> Any:
        """Declare a queue; a server that takes no writes for now is taken for one that is away."""
        with _full_is_away():
            return super().queue_declare(*args, **kwargs)

    def queue_bind(self, *args: Any, **kwargs: Any) -> Any:
        """Bind a queue, likewise."""
        with _full_is_away():
            return super().queue_bind(*args, **kwargs)

    # -- consuming

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> Any:
        """Begin to deliver from a queue; with ``no_ack`` a message is gone with its delivery."""
        (self.no_ack_queues.add if no_ack else self.no_ack_queues.discard)(queue)
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        self.reservation.look_soon()
        if self.reserves:
            self.connection.start_keeper()
        return result

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """One message of a queue, or None."""
        if no_ack or not self.ack_emulation:
            return super().basic_get(queue, no_ack, **kwargs)
        try:
            tag, payload = self.reservation.take(queue)
        except Empty:
            return None
        finally:
            self._keep_queue(queue)
        raw = self._decode(queue, payload, tag)
        if raw is None:
            return self.basic_get(queue, no_ack, **kwargs)
        self.connection.start_keeper()
        message = self.Message(raw, channel=self)
        self.qos.expect(tag)
        self.qos.append(message, tag)
        return message

    @property
    def active_queues(self) -> list[str]:
        """The queues this channel consumes, in the order they were asked for; kombu before 5.7 has them in none."""
        return [queue for queue in dict.fromkeys(self._active_queues) if queue not in self.active_fanout_queues]

    @property
    def reserves(self) -> bool:
        """Whether this channel consumes a queue whose messages are to be acknowledged."""
        return self.ack_emulation and any(queue not in self.no_ack_queues for queue in self.active_queues)

    @property
    def looks(self) -> bool:
        """Whether what arrives on the connection for messages is the answer to a look."""
        return self.reservation.is_under_way or (self.reserves and not self._in_poll)

    def _brpop_start(self, *args: Any, **kwargs: Any) -> None:
        if self.reserves:
            self.reservation.start()
        else:
            super()._brpop_start(*args, **kwargs)

    def _brpop_read(self, **options: Any) -> bool:
        if self._in_poll and not self.reservation.is_under_way:
            return bool(super()._brpop_read(**options))  # sent when nothing was to be acknowledged
        try:
            found = self.reservation.read()
        except self.connection_errors:
            if (tag := self.reservation.tag) is not None:
                self.reservation.tag = None
                self.qos.lose(tag)
            raise
        finally:
            self._authenticate_anew()
        if found is None:
            raise Empty
        queue, tag, payload = found
        self._queue_cycle.rotate(queue)
        return self._hand_over(queue, tag, payload)

    def _authenticate_anew(self) -> None:
        """Use a new token of a provider whose tokens run out, if nothing is under way; kombu 5.7 knows how."""
        flush = getattr(self, "_flush_brpop_reauth", None)
        if flush is not None:
            flush()

    def _hand_over(self, queue: str, tag: str, payload: bytes) -> bool:
        consumers = self.connection._callbacks  # noqa: SLF001 - kombu's own way
        if queue in self.no_ack_queues:
            raw = self._decode(queue, payload)
            if raw is not None:
                self.connection._deliver(raw, queue)  # noqa: SLF001
            return raw is not None
        if self._closing or queue not in consumers or not self.qos.can_consume():
            # Its consumer was cancelled while the answer was under way.
            self._give_back(queue, tag, payload)
            raise Empty
        raw = self._decode(queue, payload, tag)
        if raw is None:
            raise Empty
        self.qos.expect(tag)
        consumers[queue](raw)
        return True

    def _decode(self, queue: str, payload: bytes, tag: str | None = None) -> dict[str, Any] | None:
        """Make kombu's raw message; what cannot be read is put out of the way and reported, and is None."""
        try:
            raw: dict[str, Any] = loads(bytes_to_str(payload))
            properties = raw["properties"]
            if tag is not None:
                properties["delivery_tag"] = tag
            if not all(isinstance(part or {}, dict) for part in (raw.get("headers"), properties.get("delivery_info"))):
                raise TypeError("its headers, or where it was sent, are no mapping")
            # Done again by kombu's message, where a body that is damaged would stop the worker.
            self.decode_body(raw.get("body"), properties.get("body_encoding"))
            return raw
        except _UNREADABLE as error:
            if tag is None:
                logger.critical("Dropped what is no message of %r: %r", queue, error)
            else:
                self._set_aside(queue, tag, payload, error)
            return None

    def _give_back(self, queue: str, tag: str, payload: bytes) -> None:
        try:
            self.qos.give_back(tag)
        except (UnroutableError, *_UNREADABLE) as error:
            self._set_aside(queue, tag, payload, error)

    def _set_aside(self, queue: str, tag: str, payload: bytes, error: Exception) -> None:
        self.held.set_aside(tag, queue, payload)
        logger.critical("Set aside in %r what is no message of %r: %r", f"{queue}.unreadable", queue, error)

    def _keep_queue(self, queue: str) -> None:
        keep = getattr(self, "_maybe_update_queues_expire", None)
        if keep is not None and queue in getattr(self, "_expires", {}):
            with self.conn_or_acquire() as client:
                keep(client, queue)

    # -- putting back

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        if self.ack_emulation:
            self.held.put_back(message.delivery_tag, last=leftmost)
        else:
            super()._restore(message, leftmost)

    # -- being woken

    def watch_wake_up(self, wake_up: WakeUp) -> None:
        """Have the poller listen to a connection that wakes this channel."""
        self.connection.cycle.watch(self, wake_up)

    def forget_wake_up(self, wake_up: WakeUp) -> None:
        """Have the poller listen to it no more."""
        if self.connection is not None:
            self.connection.forget(self, wake_up)

    def _on_wake_up(self) -> bool:
        self.reservation.on_wake_up()
        raise Empty

    def _poll_error(self, kind: str, **options: Any) -> Any:
        if kind == WAKE_UP:
            return self._on_wake_up()
        return super()._poll_error(kind, **options)

    # -- the end

    def _after_fork(self) -> None:
        super()._after_fork()
        self.reservation.leave_behind()

    def close(self) -> None:
        """Put back what is held, and close the connections; the second time changes nothing."""
        self._closing = True
        if self.reservation.is_under_way:
            self._end_look()
        self.reservation.close()
        super().close()
        self._disconnect_pools()  # putting back has opened one anew

    def _end_look(self) -> None:
        try:
            self._brpop_read()
        except Empty:
            pass
        except self.connection_errors as error:
            logger.debug("Closing without the answer of the last look: %s", error)


class Channel(Reserving, redis.Channel):
    """A channel on one Redis server."""


class SentinelChannel(Reserving, redis.SentinelChannel):
    """A channel on the master that Sentinel names."""
