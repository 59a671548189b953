"""Messages that are collected and then queued together, past Celery and kombu, which send them one by one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_laravel.dispatch.stencil import Stencil

_VALUES = 500
"""Messages in one command of Redis."""


class Outbox:
    """What was published on a producer's channel, in order, until `send` queues it: all of it, or nothing.

    For kombu's virtual transports whose channel can queue many messages at a
    time: Redis, and those that have ``put_many``, which takes pairs of a queue's
    message (as kombu's ``_put`` does) and its text.
    """

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self.letters: list[tuple[str, Any, str | None]] = []

    @staticmethod
    def serves(producer: Any) -> bool:
        """Whether a producer's transport can queue many at a time."""
        channel = producer.channel
        return hasattr(channel, "put_many") or _is_redis(channel)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep what is published meanwhile. Only the thread that holds the producer may publish on its channel."""
        channel = self._producer.channel
        channel._put = self._keep  # noqa: SLF001  kombu has no other place between routing and queueing
        try:
            yield
        finally:
            del channel._put  # noqa: SLF001

    def add(self, stencil: Stencil, text: str) -> None:
        """Keep a message that was made by a stencil."""
        self.letters.append((stencil.queue, stencil.message, text))

    def send(self) -> None:
        """Queue everything.

        Raises:
            Exception: The broker's error; when the connection was lost while
                waiting for the answer, the messages may have been queued.
        """
        letters, self.letters = self.letters, []
        channel = self._producer.channel
        if hasattr(channel, "put_many"):
            channel.put_many(letters)
        else:
            _push(channel, letters)

    def _keep(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.letters.append((queue, message, None))


def _is_redis(channel: Any) -> bool:
    return all(hasattr(channel, name) for name in ("_q_for_pri", "conn_or_acquire", "priority_steps"))


def _push(channel: Any, letters: list[tuple[str, Any, str | None]]) -> None:
    """Queue messages on Redis, in one transaction."""
    texts: dict[str, list[str]] = {}
    keys: dict[int, str] = {}
    for queue, message, text in letters:
        key = keys.get(id(message))
        if key is None:
            priority = channel._get_message_priority(message, reverse=False)  # noqa: SLF001  as kombu's own `_put`
            key = keys[id(message)] = channel._q_for_pri(queue, priority)  # noqa: SLF001
        texts.setdefault(key, []).append(dumps(message) if text is None else text)
    expiring = getattr(channel, "_expires", None) or {}
    with channel.conn_or_acquire() as client, client.pipeline(transaction=True) as pipe:
        for key, values in texts.items():
            for start in range(0, len(values), _VALUES):
                pipe.lpush(key, *values[start : start + _VALUES])
        for queue in {queue for queue, _, _ in letters} & expiring.keys():
            for step in channel.priority_steps:
                pipe.pexpire(channel._q_for_pri(queue, step), expiring[queue])  # noqa: SLF001
        pipe.execute()
