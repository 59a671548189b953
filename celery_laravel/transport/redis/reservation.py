"""How a channel gets its next message: looking, and waiting until another look is worth it."""

from __future__ import annotations

from itertools import count
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu.log import get_logger
from kombu.utils.json import dumps
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from celery_laravel.transport.redis.errors import is_passing
from celery_laravel.transport.redis.scripts import script
from celery_laravel.transport.redis.wake_up import WakeUp

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = get_logger(__name__)

LOOK_INTERVAL = 5.0
"""Seconds after which an idle consumer looks although nobody woke it: its wake-up connection may have died silently."""
QUIET = 25.0
"""Seconds after which the connection that wakes an idle consumer is asked for a sign of life."""
BLOCK = 0.2
"""Seconds an idle consumer waits on one of its lists where the server cannot wake it, before it looks at all."""

_LOOK, _ARM, _BLOCK, _PING = "look", "arm", "block", "ping"


class Reservation:
    """Looks for messages on the connection that kombu keeps for its BRPOP, one command at a time.

    A look is one script that takes a message and records it as held. When it
    finds nothing, an ``EXISTS`` of the same lists follows on a connection that
    the server tracks: the answer says whether a message came meanwhile, and
    from then on the server says so by itself, to `WakeUp`. Nothing is taken
    out of a list while it is waited for, so there is nothing to lose.

    Used by one thread, as a channel's deliveries are.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._tags = (f"{uuid4().hex}-{number}" for number in count(1))
        self._sent: str | None = None
        self._sock: Any = None
        self._lists: list[tuple[str, str]] = []
        self._knows_script = False
        self._wake_up: WakeUp | None = None
        self._can_be_woken = True
        self._was_woken = False
        self._idle_until = 0.0
        self._sent_at = 0.0
        self._no_wake_up_before = 0.0
        self.tag: str | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether an answer is to be read."""
        return self._sent is not None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has been said for a while on the connection for looks."""
        return self._sent is None and monotonic() - self._sent_at >= LOOK_INTERVAL

    def look_soon(self) -> None:
        """Have the next turn look: the queues to consume have changed, or one of them."""
        self._was_woken = True
        self._idle_until = 0.0

    def start(self) -> None:
        """Send the next look, unless there is nothing to expect from one yet."""
        connection = self._channel.client.connection
        if self._sock is not connection._sock:  # noqa: SLF001 - kombu compares them likewise
            self._begin_anew(connection)
        if monotonic() < self._idle_until:
            return
        self._lists = self._lists_in_order()
        if not self._lists:
            return
        self.tag = next(self._tags)
        command = self._look_at(self._lists, self.tag)
        self._send(_LOOK, command)

    def read(self) -> tuple[str, str, bytes] | None:
        """Read the answer under way: the queue, tag and payload of a message, or None after all else.

        Raises:
            redis.exceptions.ConnectionError: The connection is lost, or the
                server is not the master any more; what a look had taken is
                known by `tag`.
        """
        sent, self._sent = self._sent, None
        channel = self._channel
        connection = channel.client.connection
        try:
            if sent is None:
                # The server has nothing to say to us; it closes the connection.
                raise RedisConnectionError("The server closed the connection of an idle consumer")
            answer = channel.client.parse_response(connection, "EVALSHA")
        except NoScriptError:
            self._knows_script, self.tag = False, None
            return None
        except ResponseError as error:
            self._take_refusal(error)
            return None
        except channel.connection_errors:
            connection.disconnect()
            raise
        finally:
            channel._in_poll = None  # noqa: SLF001 - kombu's
        if sent == _LOOK:
            return self._after_look(answer)
        if sent == _ARM and not answer and not self._was_woken:
            self._idle_until = monotonic() + LOOK_INTERVAL
        return None

    def _take_refusal(self, error: ResponseError) -> None:
        self.tag = None  # the script's first command was refused, so nothing was taken
        if isinstance(error, ReadOnlyError):
            self._channel.client.connection.disconnect()
            raise RedisConnectionError(f"The server does not take writes any more: {error}") from error
        if not is_passing(error):
            raise error
        logger.warning("The Redis server gives out no messages for now; asking again in %g s. %s", LOOK_INTERVAL, error)
        self._idle_until = monotonic() + LOOK_INTERVAL

    def take(self, queue: str) -> tuple[str, bytes]:
        """Take a message of one queue now, waiting for the answer but not for a message.

        Raises:
            queue.Empty: The queue is.
        """
        channel, tag = self._channel, next(self._tags)
        lists = [(queue, channel._q_for_pri(queue, priority)) for priority in channel.priority_steps]  # noqa: SLF001
        found = script("reserve").run(channel.held.client, *self._keys_and_arguments(lists, tag))
        if not found:
            raise Empty
        return tag, found[1]

    def on_wake_up(self) -> None:
        """Read what woke the consumer; if that was the end of the connection, another is made when it is needed."""
        if self._wake_up is None:
            return
        try:
            if self._wake_up.drain():
                self.look_soon()
        except RedisConnectionError as error:
            self._lose_wake_up(error)

    def keep_alive(self) -> None:
        """Say something on a connection that has been quiet because there is no room for another message.

        While jobs run for hours nothing is looked for, and servers and
        proxies close what is idle. To lose the connection would be to give the
        running jobs back.
        """
        if self._sock is not None and self._sock is self._channel.client.connection._sock:  # noqa: SLF001
            self._send(_PING, ["PING"])

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._wake_up is not None:
            self._channel.forget_wake_up(self._wake_up)
            self._wake_up.close()
            self._wake_up = None

    def leave_behind(self) -> None:
        """In a forked child: close its copy of what is the parent's, which hears nothing of it."""
        if self._wake_up is not None:
            self._wake_up.close()
            self._wake_up = None

    # -- a look

    def _lists_in_order(self) -> list[tuple[str, str]]:
        """The lists of all queues, by priority, then in the order of the queues' turns; each with its queue."""
        channel = self._channel
        queues = channel._queue_cycle.consume(len(channel.active_queues))  # noqa: SLF001
        steps = channel.priority_steps
        return [(queue, channel._q_for_pri(queue, step)) for step in steps for queue in queues]  # noqa: SLF001

    def _look_at(self, lists: Sequence[tuple[str, str]], tag: str) -> list[Any]:
        return script("reserve").command(*self._keys_and_arguments(lists, tag), in_full=not self._knows_script)

    def _keys_and_arguments(self, lists: Sequence[tuple[str, str]], tag: str) -> tuple[list[str], list[str]]:
        channel = self._channel
        prefix = channel.global_keyprefix
        keys = [*channel.held.keys, *(prefix + name for _, name in lists)]
        # Where the message goes if it is put back: by the default exchange, to the queue it came from.
        ends = ("" if queue in channel.no_ack_queues else f', "", {dumps(queue)}]' for queue, _ in lists)
        return keys, [tag, *ends]

    def _after_look(self, answer: Any) -> tuple[str, str, bytes] | None:
        self._knows_script = True
        tag, self.tag = self.tag, None
        if answer is None:
            if not self._channel._closing:  # noqa: SLF001 - kombu's
                self._wait()
            return None
        number, payload = answer
        return self._lists[number - 1][0], str(tag), payload

    # -- waiting

    def _wait(self) -> None:
        connection = self._channel.client.connection
        keys = [self._channel.global_keyprefix + name for _, name in self._lists]
        if self._can_be_woken and self._arm(connection):
            self._was_woken = False
            self._send(_ARM, ["EXISTS", *keys])
        else:
            # Moved to where it is: a wait that takes nothing, for one list at a time.
            self._send(_BLOCK, ["BLMOVE", keys[0], keys[0], "RIGHT", "RIGHT", BLOCK])

    def _arm(self, connection: Any) -> bool:
        try:
            wake_up = self._wake_up or self._open_wake_up()
            if wake_up is None:
                return False
            wake_up.track(connection)
        except ResponseError as error:
            logger.warning(
                "The Redis server does not wake idle consumers (%s). They look for messages every %s s instead, "
                "which takes more of its time. Allow the commands CLIENT ID, CLIENT TRACKING and SUBSCRIBE.",
                error,
                BLOCK,
            )
            self._can_be_woken = False
            self.close()
            return False
        return self._is_alive(wake_up)

    def _open_wake_up(self) -> WakeUp | None:
        if monotonic() < self._no_wake_up_before:
            return None
        wake_up = WakeUp(self._channel.pool)
        try:
            wake_up.open()
        except self._channel.connection_errors as error:
            self._lose_wake_up(error)
            return None
        self._wake_up = wake_up
        self._channel.watch_wake_up(wake_up)
        return wake_up

    def _is_alive(self, wake_up: WakeUp) -> bool:
        try:
            if self._channel.health_check_interval:
                wake_up.ping(QUIET, LOOK_INTERVAL)
        except self._channel.connection_errors as error:
            self._lose_wake_up(error)
            return False
        return True

    def _lose_wake_up(self, error: Exception) -> None:
        """Do without for a moment: a proxy may close such connections as soon as they are there."""
        logger.info("Looking for messages more often until another connection wakes this consumer. %s", error)
        self._no_wake_up_before = monotonic() + LOOK_INTERVAL
        self.close()
        self.look_soon()

    def _begin_anew(self, connection: Any) -> None:
        if self.tag is not None:  # kombu dropped a connection whose answer was overdue
            self._channel.qos.lose(self.tag)
            self.tag = None
        self.close()  # what was tracked on the other socket is not on this one
        self._sock = connection._sock  # noqa: SLF001
        self._sent = None
        self._knows_script = False
        self._idle_until = 0.0

    def _send(self, kind: str, command: list[Any]) -> None:
        channel = self._channel
        channel._in_poll = channel.client.connection  # noqa: SLF001 - kombu's, to see that an answer is overdue
        self._sent_at = channel._brpop_sent_at = monotonic()  # noqa: SLF001
        self._sent = kind
        channel.client.connection.send_command(*command)
