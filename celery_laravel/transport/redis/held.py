"""The messages that the workers of a Redis broker hold: kombu's ``unacked`` hash and its index of times."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from kombu.log import get_logger
from kombu.utils.json import dumps, loads
from redis import Redis
from redis.exceptions import ReadOnlyError, ResponseError

from celery_laravel.transport.redis.errors import is_passing
from celery_laravel.transport.redis.scripts import script

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = get_logger(__name__)

AT_A_TIME = 100
UNREADABLE = ".unreadable"


class Held:
    """What is recorded about deliveries, in kombu's format, so that its own workers read and write the same.

    A delivery has a tag of its own, which no other delivery ever has: one that
    comes too late, because the message has been put back meanwhile, finds
    nothing to acknowledge. Instants are the server's; kombu's workers write
    and compare their own clocks, as they do among themselves.

    Every method may raise what redis-py raises. A call that was cut off may
    have been carried out; calling again does no harm.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._pool: Any = None
        self._client: Any = None
        self._removing = threading.RLock()

    @property
    def keys(self) -> list[str]:
        """The hash of the messages, and the index of when their holders were last heard of."""
        prefix = self._channel.global_keyprefix
        return [prefix + self._channel.unacked_key, prefix + self._channel.unacked_index_key]

    def remove(self, tag: str) -> None:
        """Forget one delivery's message for good; one that is not held any more stays where it is.

        One at a time: with a hundred greenlets or threads whose jobs end
        together, each would want a connection of its own, and the pool has ten.
        """
        with self._removing:
            script("remove").run(self.client, self.keys, [tag])
            if self._channel.closed:
                self._pool.disconnect()

    def renew(self, tags: Iterable[str]) -> None:
        """Note that the holder of these deliveries is alive; those that ended meanwhile stay ended."""
        tags = list(tags)
        for start in range(0, len(tags), AT_A_TIME):
            script("renew").run(self.client, self.keys[1:], tags[start : start + AT_A_TIME])

    def put_back(
        self, tag: str, *, was_delivered: bool = True, counts: bool = False, last: bool = False, unless_since: str = ""
    ) -> bool:
        """Move one delivery's message back to its queue; False if it is not held any more.

        It is taken next, or ``last``. One that ``was_delivered`` is marked as
        redelivered; if the delivery ``counts`` as a failed one, the header
        ``x-delivery-count`` is one more. ``unless_since`` leaves it alone if
        its holder was heard of after that instant.
        """
        record = self.client.hget(self.keys[0], tag)
        if record is None:
            self.client.zrem(self.keys[1], tag)
            return False
        try:
            message, exchange, routing_key = loads(record)
        except (ValueError, TypeError, RecursionError) as error:
            raise UnreadableError(f"what is recorded of it cannot be read: {error}", record) from error
        queues = self._channel._lookup(exchange, routing_key)  # noqa: SLF001 - kombu has no other way
        if not queues:
            msg = f"no queue is bound to {exchange!r} with the routing key {routing_key!r} any more"
            raise UnroutableError(msg)
        if was_delivered:
            _mark(message, counts=counts)
        priority = self._channel._get_message_priority(message, reverse=False)  # noqa: SLF001
        lists = [self._list_of(queue, priority) for queue in queues]
        arguments = [tag, dumps(message), "LPUSH" if last else "RPUSH", unless_since]
        return bool(script("put_back").run(self.client, [*self.keys, *lists], arguments))

    def set_aside(self, tag: str, queue: str, payload: bytes) -> None:
        """Move what is no message out of the way, to the list ``<queue>.unreadable``."""
        arguments = [tag, payload, "LPUSH", ""]
        script("put_back").run(self.client, [*self.keys, self._list_of(queue + UNREADABLE, 0)], arguments)

    def put_back_abandoned(self, visibility_timeout: float, limit: int | None = None) -> int:
        """Put back what nobody renewed for ``visibility_timeout`` seconds, oldest first; say how many.

        Any number of processes may do this at once: each message is put back
        by one. A message that cannot be put back stays recorded and is tried
        again after another ``visibility_timeout``.
        """
        seconds, microseconds = self.client.time()
        before = f"{seconds - visibility_timeout + microseconds / 1e6:.6f}"
        done = 0
        while limit is None or done < limit:
            count = AT_A_TIME if limit is None else min(AT_A_TIME, limit - done)
            command = ["ZRANGE", self.keys[1], "-inf", before, "BYSCORE", "LIMIT", 0, count]
            tags: list[Any] = self.client.execute_command(*command)
            for tag in tags:
                name = tag.decode() if isinstance(tag, bytes) else tag
                done += self.try_to_put_back(name, counts=True, unless_since=before)
            if len(tags) < count:
                break
        return done

    def try_to_put_back(self, tag: str, **how: Any) -> bool:
        """As `put_back`, but a message that cannot be put back is reported, and is in nobody else's way.

        It stays recorded, and is tried again after ``visibility_timeout``; of
        what is no message, which would never succeed, the record is set aside.
        """
        try:
            return self.put_back(tag, **how)
        except UnreadableError as error:
            key = self._channel.unacked_key
            self.set_aside(tag, key, error.record)
            logger.critical("Set aside in %r the record of what is no message: %s", key + UNREADABLE, error)
            return False
        except (UnroutableError, ValueError, TypeError, KeyError, AttributeError, ResponseError) as error:
            if isinstance(error, ResponseError) and (isinstance(error, ReadOnlyError) or is_passing(error)):
                raise  # what ails the server concerns every message
            logger.critical("Cannot put back the message %s; it stays in %r", tag, self.keys[0], exc_info=True)
            self.renew([tag])
            return False

    def _list_of(self, queue: str, priority: int) -> str:
        return str(self._channel.global_keyprefix + self._channel._q_for_pri(queue, priority))  # noqa: SLF001

    @property
    def client(self) -> Any:
        """Reaches the server through the channel's pool, adding no prefix.

        A job may end after its channel: then through the pool that the channel had.
        """
        pool = self._channel.pool if self._channel.connection is not None else self._pool
        if self._client is None or pool is not self._pool:
            # kombu's own client would prefix the first key of a script and no other.
            self._pool, self._client = pool, Redis(connection_pool=pool)
        return self._client


class UnroutableError(Exception):
    """A message belongs to no queue."""


class UnreadableError(ValueError):
    """What is recorded of a delivery is no message; ``record`` is all of it."""

    def __init__(self, message: str, record: bytes) -> None:
        super().__init__(message)
        self.record = record


def _mark(message: dict[str, Any], *, counts: bool) -> None:
    # Producers of other kinds leave out what is empty.
    headers = message["headers"] = message.get("headers") or {}
    properties = message["properties"]
    info = properties["delivery_info"] = properties.get("delivery_info") or {}
    headers["redelivered"] = info["redelivered"] = True
    if counts:
        before = headers.get("x-delivery-count")
        headers["x-delivery-count"] = (before if isinstance(before, int) else 0) + 1
