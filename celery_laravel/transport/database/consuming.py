"""How a channel finds its next messages: when to look, in which queues, and how many to fetch."""

from __future__ import annotations

import time
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from kombu.log import get_logger
from kombu.utils.scheduling import cycle_by_name, priority_cycle

from celery_laravel.transport.database.errors import DatabaseBrokerError
from celery_laravel.transport.database.payload import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery_laravel.transport.database.channel import Channel
    from celery_laravel.transport.database.connection import Database
    from celery_laravel.transport.database.messages import Reserved
    from celery_laravel.transport.database.news import Version

logger = get_logger(__name__)

UNREADABLE = ".unreadable"


class Consuming:
    """Deliver what a channel's queues hold.

    A look at empty queues costs one reading of the database's change counter.
    The queues are asked again when it has moved, or when the next delayed
    message is due.

    Attributes:
        has_more: Whether the last look ended with more to fetch.
        next_due: The monotonic time at which a message that is hidden now will show by itself.
    """

    def __init__(self, channel: Channel, database: Database) -> None:
        self._channel = channel
        self._messages = channel.messages
        self._database = database
        self._make_order = cycle_by_name(database.options.queue_order_strategy)
        self.forget()

    def forget(self) -> None:
        """Begin anew, because the queues to consume have changed."""
        self.has_more = True
        self._fetched_at = self._fetch_time = 0.0
        self._order = self._make_order(self._channel.active_queues)
        self._empty_at: tuple[int, int] | None = None
        self._due_at: tuple[int, int] | None = None
        self.next_due = float("inf")

    def deliver(self, callback: Callable[[Any, str], Any], limit: int, version: Version) -> int:
        """Reserve up to ``limit`` messages, hand them over one by one, and say how many they were.

        ``version`` was read before the queues are: what is published in
        between is seen as a change next time.
        """
        qos = self._channel.qos
        room = limit if (free := qos.can_consume_max_estimate()) is None else min(limit, free)
        if not room:
            return 0
        if limit > 1 and self._is_too_soon(room):
            return 0
        if not self.has_more and version.messages == self._empty_at and time.monotonic() < self.next_due:
            return 0
        queues = list(self._order.consume(len(self._channel.active_queues)))
        started = time.monotonic()
        reserved = self._reserve(queues, room)
        self._fetched_at = time.monotonic()
        self._fetch_time = self._fetched_at - started
        self.has_more = len(reserved) >= room
        self._hand_over(reserved, callback)
        if not self.has_more:
            self._empty_at = version.messages
            if version.delays != self._due_at or time.monotonic() >= self.next_due:
                self._due_at = version.delays
                self.next_due = self._when_due(queues)
        return len(reserved)

    def _is_too_soon(self, room: int) -> bool:
        """Whether to let more room come free first.

        As jobs end one by one, each would cost a fetch of its own. Less than
        half the prefetch limit is filled up only when as much time has passed
        as the last fetch took.
        """
        if 2 * room >= self._channel.qos.prefetch_count:
            return False
        left = self._fetched_at + self._fetch_time - time.monotonic()
        if left > 0 and self.has_more:
            self._channel.connection.look_again_in(left)
            return True
        return False

    def _when_due(self, queues: list[str]) -> float:
        if self._database.news.is_polling:
            return float("inf")  # the next look comes by itself
        seconds = self._messages.next_due(queues)
        return float("inf") if seconds is None else time.monotonic() + seconds

    def _reserve(self, queues: list[str], room: int) -> list[Reserved]:
        takes_turns = not isinstance(self._order, priority_cycle)
        share = -(-room // len(queues)) if takes_turns else room
        found: dict[str, list[Reserved]] = {queue: [] for queue in queues}
        try:
            left = room
            while left:
                before = left
                for queue in queues:
                    fetched = self._fetch(queue, min(share, left)) if left else []
                    found[queue].extend(fetched)
                    left -= len(fetched)
                    if fetched:
                        self._order.rotate(queue)
                if left == before:
                    break
        except BaseException:
            self._put_back(row for rows in found.values() for row in rows)
            raise
        in_turn = zip_longest(*found.values()) if takes_turns else [[row for rows in found.values() for row in rows]]
        return [row for turn in in_turn for row in turn if row is not None]

    def _fetch(self, queue: str, count: int) -> list[Reserved]:
        if queue in self._channel.no_ack_queues:
            return self._messages.take(queue, count)
        rows = self._messages.reserve(queue, count, lease=self._channel.new_lease())
        self._channel.qos.hold(row.tag for row in rows)
        return rows

    def _hand_over(self, reserved: list[Reserved], callback: Callable[[Any, str], Any]) -> None:
        qos, consumers = self._channel.qos, self._channel.connection._callbacks  # noqa: SLF001 - kombu has no other way
        waiting = iter(reserved)
        try:
            for row in waiting:
                raw = self.decode(row)
                if raw is None:
                    qos.forget(row.tag)
                elif row.queue in consumers:
                    callback(raw, row.queue)
                elif row.lease:
                    qos.put_back([row.tag])  # its consumer was cancelled a moment ago
        except BaseException:
            # The one that raised is the consumer's by now; the others never left.
            self._put_back(waiting)
            raise

    def _put_back(self, rows: Iterable[Reserved]) -> None:
        try:
            self._channel.qos.put_back(row.tag for row in rows if row.lease)
        except DatabaseBrokerError as error:
            logger.warning("Could not put back messages; they stay held until the channel closes. %s", error)

    def decode(self, row: Reserved) -> dict[str, Any] | None:
        """Make kombu's raw message of a row; one that cannot be read is set aside and reported, and is None."""
        try:
            raw = decode(row)
            # Done again by kombu's message, where a body that is damaged would stop the worker.
            self._channel.decode_body(raw.get("body"), raw["properties"].get("body_encoding"))
            return raw
        except (AttributeError, TypeError, ValueError):
            if not row.lease:
                logger.exception("A message of queue %r cannot be read and is dropped", row.queue)
                return None
            aside = row.queue + UNREADABLE
            logger.exception("Message %d of queue %r cannot be read; it is kept in queue %r", row.id, row.queue, aside)
            self._messages.set_aside(row.id, aside)
            return None
