"""The messages a channel holds, by lease."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from kombu.log import get_logger
from kombu.transport import virtual

from celery_laravel.transport.database.errors import BrokerUnavailableError, DatabaseBrokerError
from celery_laravel.transport.database.messages import read_tag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_laravel.transport.database.messages import Messages

logger = get_logger(__name__)


class QoS(virtual.QoS):
    """Count what is delivered and not yet acknowledged, and settle it with the database.

    Settling happens in whichever thread the work ended in. Acknowledged means
    removed from the table when the call returns. What is left when the channel
    closes goes back to its queue; what a killed process leaves goes back when
    its lease runs out.
    """

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._messages: Messages = channel.messages
        self._held: dict[str, Any] = self._delivered
        self._owed: dict[str, bool] = {}
        """What is to be settled yet, and whether it goes back to its queue instead of being removed."""
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._restored = False

    def can_consume(self) -> bool:
        """Whether the prefetch limit leaves room for another message."""
        return self.can_consume_max_estimate() != 0

    def can_consume_max_estimate(self) -> int | None:
        """How many more the prefetch limit leaves room for, or None if there is no limit."""
        limit: int = self.prefetch_count
        return max(limit - (len(self._held) - len(self._owed)), 0) if limit else None

    def hold(self, tags: Iterable[str]) -> None:
        """Count messages as held from their reservation on, before they are delivered.

        With the solo pool the first job may run for long before the next one
        of the same reservation is delivered; its lease is renewed like the others'.
        """
        self._leave_the_parents()
        with self._lock:
            self._held.update(dict.fromkeys(tags))

    def _leave_the_parents(self) -> None:
        """In a forked child: what was held before is the parent's, which renews it and gives it back."""
        if self._pid != os.getpid():
            self._pid, self._lock = os.getpid(), threading.Lock()
            self._held.clear()
            self._owed.clear()

    def put_back(self, tags: Iterable[str]) -> None:
        """Put back messages that were never delivered; their reservation does not count."""
        tags = list(tags)
        self._messages.hand_back(map(read_tag, tags), unused=True)
        for tag in tags:
            self._drop(tag)

    def forget(self, tag: str) -> None:
        """Let go of a message that is settled already."""
        self._drop(tag)

    def append(self, message: Any, delivery_tag: str) -> None:
        """Remember a message as delivered."""
        self._leave_the_parents()
        with self._lock:
            self._held[delivery_tag] = message

    def get(self, delivery_tag: str) -> Any:
        """The message of a delivery tag."""
        return self._held[delivery_tag]

    def leases(self) -> list[tuple[int, str]]:
        """What this channel holds, to be renewed."""
        self._leave_the_parents()
        with self._lock:
            tags = list(self._held)
        return [read_tag(tag) for tag in tags]

    def ack(self, delivery_tag: str) -> None:
        """Remove the message from the table, then from what is held.

        In the event loop of a worker whose database is a server the removal is
        owed instead, and made up for in a thread at once: the loop does not
        stand still while a server writes to its disk, and what was acknowledged
        meanwhile goes with it. A worker that is killed in that moment has its
        message delivered again, as if it had been killed before.

        While the database cannot be reached the message stays held and its
        removal owed, so that nobody runs it again.
        """
        settler = self.channel.connection and self.channel.connection.settler
        if settler:
            self._owe(delivery_tag, goes_back=False)
            settler.wake()
            if self.channel.has_more:
                self.channel.connection.wake()
            return
        self._settle(delivery_tag, goes_back=False)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Remove the message, or put it back where it stood; the delivery counts.

        Celery asks once, and logs what that raises: so this, too, is owed while
        the database cannot be reached. The message would be held for as long as
        this process lives.
        """
        self._settle(delivery_tag, goes_back=requeue)

    def _settle(self, delivery_tag: str, *, goes_back: bool) -> None:
        message_id, lease = read_tag(delivery_tag)
        try:
            if goes_back:
                self._messages.hand_back([(message_id, lease)], unused=False)
            else:
                self._messages.acknowledge(message_id)
        except BrokerUnavailableError as error:
            logger.warning("Could not settle a message; trying again. %s", error)
            self._owe(delivery_tag, goes_back=goes_back)
        else:
            self._drop(delivery_tag)

    def _owe(self, delivery_tag: str, *, goes_back: bool) -> None:
        with self._lock:
            self._owed[delivery_tag] = goes_back

    def settle_owed(self) -> None:
        """Make up for what could not be acknowledged or rejected."""
        with self._lock:
            owed = dict(self._owed)
        done = [tag for tag, goes_back in owed.items() if not goes_back]
        back = [tag for tag, goes_back in owed.items() if goes_back]
        self._messages.acknowledge(*(read_tag(tag)[0] for tag in done))
        self._messages.hand_back(map(read_tag, back), unused=False)
        for delivery_tag in owed:
            self._drop(delivery_tag)

    def restore_unacked(self) -> list[Any]:
        """Put back everything that is held; these deliveries do not count."""
        self._messages.hand_back(self.leases(), unused=True)
        with self._lock:
            self._held.clear()
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put back everything that is held, when the channel closes or the process ends.

        Should the database refuse, the leases run out by themselves, so that is
        logged and not raised: a shutdown goes on.
        """
        self._leave_the_parents()
        if self._restored:
            return
        self._restored = True
        self._on_collect.cancel()
        if not self._held or not self.restore_at_shutdown or not self.channel.do_restore:
            return
        logger.info("Restoring %d unacknowledged message(s)", len(self._held))
        try:
            self.settle_owed()
            self.restore_unacked()
        except DatabaseBrokerError as error:
            logger.warning(
                "Could not put back unacknowledged messages; that is done when this process connects again, "
                "or else they come back after visibility_timeout. %s",
                error,
            )
            self._settle_later()

    def _settle_later(self) -> None:
        with self._lock:
            done = {tag for tag, goes_back in self._owed.items() if not goes_back}
            left = self._held.keys() - done
            self._held.clear()
            self._owed.clear()
        self._messages.acknowledge_later(read_tag(tag)[0] for tag in done)
        self._messages.hand_back_later(map(read_tag, left))

    def _drop(self, delivery_tag: str) -> None:
        with self._lock:
            self._held.pop(delivery_tag, None)
            self._owed.pop(delivery_tag, None)
        connection = self.channel.connection
        if connection is not None and self.channel.has_more:
            connection.wake()
