"""Publisher confirms of AMQP, waited for together: one by one, each costs a round trip and a write to a disk."""

from __future__ import annotations

import logging
from typing import Any

from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds without a word from the broker after which messages that are not confirmed are taken to be lost."""


class Confirming:
    """Publishes through a channel of its own, and learns afterwards which messages the broker has taken.

        with closing(Confirming(app, producer)) as confirming:
            confirming.begin(0)
            task.apply_async(producer=confirming.producer, retry=False)
            refused = confirming.unconfirmed()

    Raises:
        Exception: One of `lost_by`: the producer's connection has been lost meanwhile.

    Of a message that is not confirmed nobody can say whether the broker has
    it: whoever publishes it again gives it the same id.
    """

    def __init__(self, app: Any, producer: Any) -> None:
        self.errors = self.lost_by(producer)
        self._channel = producer.connection.channel()
        self._client = self._channel.connection
        self._plain = type(self._channel).basic_publish  # the instance's own waits for each confirmation
        self._channel.basic_publish = self._publish
        self._channel.events["basic_ack"].add(self._taken)
        self._channel.events["basic_nack"].add(self._refused)
        self._channel.confirm_select()
        self._open: dict[int, int] = {}  # delivery tag to position
        self._lost: set[int] = set()
        self._tag = self._position = 0
        self.producer = app.amqp.Producer(self._channel, auto_declare=False)

    @staticmethod
    def serves(producer: Any) -> bool:
        """Whether a producer's transport is AMQP, and is asked for confirms."""
        client = getattr(producer.channel, "connection", None)
        return hasattr(producer.channel, "confirm_select") and bool(getattr(client, "confirm_publish", False))

    def close(self) -> None:
        """Give back the channel."""
        try:
            self._channel.close()
        except self.errors as lost:
            logger.debug("The channel of a batch's dispatch was gone before it could be closed: %s", lost)

    @staticmethod
    def lost_by(producer: Any) -> tuple[type[BaseException], ...]:
        """What is raised when a producer's connection or channel is lost."""
        connection = producer.connection
        return (OperationalError, *connection.connection_errors, *connection.channel_errors)

    def begin(self, position: int) -> None:
        """Say what the messages that are published next belong to."""
        self._position = position

    def unconfirmed(self) -> set[int]:
        """Wait for the broker's word on everything; return the positions of what it has not taken, or not for sure."""
        silence: tuple[type[BaseException], ...] = (TimeoutError, *self.errors)
        try:
            while self._open:  # the client's own connection: kombu's would make a new one of one that is lost
                self._client.drain_events(timeout=PATIENCE)
        except silence as lost:
            logger.warning("The broker has not confirmed %d messages of a batch: %r", len(self._open), lost)
        return self._lost | set(self._open.values())

    def _publish(self, *args: Any, confirm_timeout: Any = None, **kwargs: Any) -> Any:
        self._tag += 1
        self._open[self._tag] = self._position
        return self._plain(self._channel, *args, **kwargs)

    def _taken(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple)

    def _refused(self, tag: int, multiple: bool) -> None:
        self._lost.update(self._settle(tag, multiple))

    def _settle(self, tag: int, multiple: bool) -> list[int]:
        tags = [open_tag for open_tag in self._open if open_tag <= tag] if multiple else [tag]
        return [self._open.pop(open_tag) for open_tag in tags if open_tag in self._open]
