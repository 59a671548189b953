"""Messages that are collected and then queued together, past Celery and kombu, which send them one by one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_laravel.dispatch.stencil import Stencil
    from celery_laravel.stores.contracts import DelayStore
    from celery_laravel.stores.records import NewDelay

_VALUES = 500
"""Messages in one command of Redis."""


class Outbox:
    """What was published on a producer's channel, in order, until `send` queues it: all of it, or nothing.

    For kombu's virtual transports whose channel can queue many messages at a
    time: Redis, and those that have ``put_many``, which takes pairs of a queue's
    message (as kombu's ``_put`` does) and its text. What is to wait in the store
    until it is due is among ``delays``, and goes there with the rest.
    """

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self.letters: list[tuple[str, Any, str | None]] = []
        self.delays: list[NewDelay] = []
        self.delay_store: DelayStore | None = None

    @staticmethod
    def serves(producer: Any) -> bool:
        """Whether a producer's transport can queue many at a time."""
        channel = producer.channel
        return hasattr(channel, "put_many") or is_redis(channel)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep what is published meanwhile. Only the thread that holds the producer may publish on its channel."""
        channel = self._producer.channel
        with self.instead_of_queueing(channel):
            yield

    @contextmanager
    def instead_of_queueing(self, channel: Any) -> Iterator[None]:
        """As `collecting`, for a channel that may have an outbox already: that one goes on afterwards."""
        around = vars(channel).get("_put")
        channel._put = self._keep  # noqa: SLF001  kombu has no other place between routing and queueing
        try:
            yield
        finally:
            if around is None:
                del channel._put  # noqa: SLF001
            else:
                channel._put = around  # noqa: SLF001

    @staticmethod
    def of(channel: Any) -> Outbox | None:
        """The outbox that collects what is published on a channel, if there is one."""
        owner = getattr(vars(channel).get("_put"), "__self__", None)
        return owner if isinstance(owner, Outbox) else None

    def add(self, stencil: Stencil, text: str) -> None:
        """Keep a message that was made by a stencil."""
        self.letters.append((stencil.queue, stencil.message, text))

    def send(self) -> None:
        """Queue everything.

        Raises:
            StoreUnavailableError: The store did not answer that is to keep those
                which are delayed; none has been queued.
            Exception: The broker's error; when the connection was lost while
                waiting for the answer, the messages may have been queued.
        """
        letters, self.letters = self.letters, []
        delays, self.delays = self.delays, []
        channel = self._producer.channel
        if delays:
            assert self.delay_store is not None
            self.delay_store.park(delays)
        if not letters:
            return
        if hasattr(channel, "put_many"):
            channel.put_many(letters)
        else:
            _push(channel, letters)

    def _keep(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.letters.append((queue, message, None))


def is_redis(channel: Any) -> bool:
    """Whether a channel is one of kombu's, or of a kind of it, that keeps its queues in lists of Redis."""
    return all(hasattr(channel, name) for name in ("_q_for_pri", "conn_or_acquire", "priority_steps"))


def list_of(channel: Any, queue: str, message: Any) -> str:
    """The list that a message for a queue goes to, as kombu's own ``_put`` finds it."""
    priority = channel._get_message_priority(message, reverse=False)  # noqa: SLF001
    return str(channel._q_for_pri(queue, priority))  # noqa: SLF001


def _push(channel: Any, letters: list[tuple[str, Any, str | None]]) -> None:
    """Queue messages on Redis, in one transaction."""
    texts: dict[str, list[str]] = {}
    keys: dict[int, str] = {}
    for queue, message, text in letters:
        key = keys.get(id(message))
        if key is None:
            key = keys[id(message)] = list_of(channel, queue, message)
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
