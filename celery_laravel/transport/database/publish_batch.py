"""Many messages in one transaction, for kombu's ``Producer.batch()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_laravel.transport.database.channel import Channel
    from celery_laravel.transport.database.messages import NewMessage


class PublishBatch:
    """Collect what a producer publishes and store it together.

    kombu makes one for each ``with producer.batch():`` (5.7 and later). A flush
    is one transaction: it stores everything collected since the last, or, when
    it raises, nothing of it.
    """

    def __init__(self, channel: Channel, max_size: int) -> None:
        self.channel = channel
        self.max_size = max_size
        self._messages: list[NewMessage] = []
        self._is_open = True

    def publish(self, message: dict[str, Any], **kwargs: Any) -> Any:
        """Route a message and keep its copies until the next flush."""
        self._require_open()
        result = self.channel.basic_publish(message, _publish_batch=self, **kwargs)
        if len(self._messages) >= self.max_size:
            self.flush()
        return result

    def add(self, messages: list[NewMessage]) -> None:
        """Take what the channel would otherwise have stored."""
        self._messages.extend(messages)

    def flush(self) -> None:
        """Store what was collected, in one transaction."""
        self._require_open()
        messages, self._messages = self._messages, []
        self.channel.messages.publish(messages)

    def discard(self) -> None:
        """Forget what was collected and not stored yet."""
        self._messages = []
        self._is_open = False

    def close(self) -> None:
        """End the batch; kombu has flushed or discarded it by then."""
        self._is_open = False

    def _require_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("This batch of messages is closed; begin another with producer.batch()")
