"""What a channel has delivered and not yet settled."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kombu.log import get_logger
from kombu.transport import redis, virtual
from redis.exceptions import ResponseError

from celery_laravel.transport.redis.errors import is_passing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_laravel.transport.redis.held import Held

logger = get_logger(__name__)

_REQUEUED = {"counts": True, "last": True}
_UNTOUCHED = {"was_delivered": False}
"""How a message goes back to its queue, in the words of `Held.put_back`."""


class QoS(redis.QoS):
    """Count what is delivered, and settle it with the server.

    A message is recorded as held before it is delivered, by the step that took
    it. Settling happens in whichever thread the work ended in. What is left
    when the channel closes goes back to its queue; what a killed process
    leaves is put back after ``visibility_timeout``.
    """

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._held: Held = channel.held
        self._recorded: set[str] = set()
        self._owed: dict[str, Mapping[str, Any] | None] = {}
        self._pid = os.getpid()

    def expect(self, tag: str) -> None:
        """Know of a delivery, recorded already, that is handed to its consumer next."""
        self._leave_the_parents()
        self._recorded.add(tag)

    def _leave_the_parents(self) -> None:
        """In a forked child: what was held before is the parent's, which renews it and gives it back."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            for held in (self._delivered, self._dirty, self._recorded, self._owed):
                held.clear()

    def lose(self, tag: str) -> None:
        """Know of a look whose answer was lost: what it may have taken is put back, untouched, when possible."""
        self._owed[tag] = _UNTOUCHED

    def give_back(self, tag: str) -> None:
        """Put back a message that was taken and not delivered; if the server is away, when it is possible."""
        try:
            self._held.put_back(tag, was_delivered=False)
        except self.channel.connection_errors:
            self.lose(tag)
            raise

    def append(self, message: Any, delivery_tag: str) -> None:
        """Remember a message as delivered; one that came by another way than ours is recorded first."""
        if delivery_tag in self._recorded:
            virtual.QoS.append(self, message, delivery_tag)
            self._recorded.discard(delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Remove the message for good; the second time, or after it was put back, changes nothing.

        While the server cannot be reached the message stays held and its
        removal owed, so that nobody runs it again.
        """
        self._settle(delivery_tag, None)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Remove the message, or put it back behind the others; the delivery counts.

        Celery asks once, and logs what that raises: so this, too, is owed while
        the server cannot be reached. The message would be held for as long as
        this process lives.
        """
        self._settle(delivery_tag, _REQUEUED if requeue else None)

    def _settle(self, delivery_tag: str, back: Mapping[str, Any] | None) -> None:
        try:
            if back is None:
                self._held.remove(delivery_tag)
            else:
                self._held.put_back(delivery_tag, **back)
        except (ResponseError, *self.channel.connection_errors) as error:
            if not isinstance(error, self.channel.connection_errors) and not is_passing(error):
                raise
            logger.warning("Could not settle a message; trying again. %s", error)
            self._owed[delivery_tag] = back
        else:
            virtual.QoS.ack(self, delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put one message back, ``leftmost`` behind the others; the delivery does not count."""
        self._held.put_back(tag, last=leftmost)

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 10) -> None:
        """Put back what nobody renewed for ``visibility_timeout``, at most ``num``, at once; for who calls it himself.

        `Transport` does the same by the clock, in a thread. No mutex is needed, so ``interval`` has no meaning here,
        and neither has ``start``: what is put back is the oldest.
        """
        self._held.put_back_abandoned(self.channel.visibility_timeout, num)

    def tags(self) -> list[str]:
        """The deliveries that this channel holds; the one it may be about to get is among them."""
        self._leave_the_parents()
        under_way = self.channel.reservation.tag
        held = [tag for tag in [*self._delivered, *self._recorded] if tag not in self._dirty]
        return [*held, under_way] if under_way is not None else held

    def renew(self) -> None:
        """Make up for what is owed, and tell the server that the holder of the others is alive."""
        self.settle_owed()
        self._held.renew(self.tags())

    def settle_owed(self) -> None:
        """Acknowledge and reject what could not be, and put back what a lost look took."""
        for tag, back in list(self._owed.items()):
            if back is None:
                self._held.remove(tag)
            else:
                self._held.try_to_put_back(tag, **back)
            virtual.QoS.ack(self, tag)
            self._owed.pop(tag, None)

    def restore_unacked(self, client: Any = None) -> list[Any]:
        """Put back everything that is held, in the order it was; these deliveries do not count."""
        self._flush()
        for tag in reversed(list(self._delivered)):  # each goes before those that are there
            if tag not in self._owed:
                self._held.try_to_put_back(tag)
        self._delivered.clear()
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put back everything that is held, when the channel closes or the process ends.

        A forked child holds nothing. Should the server be away, the messages
        come back after ``visibility_timeout`` by themselves, so that is logged
        and not raised: a shutdown goes on.
        """
        self._leave_the_parents()
        try:
            self.settle_owed()
            super().restore_unacked_once(stderr)
        except self.channel.connection_errors as error:
            self._on_collect.cancel()
            self._delivered.clear()
            self._delivered.restored = True
            logger.warning("Could not put back unacknowledged messages; visibility_timeout brings them back. %s", error)
