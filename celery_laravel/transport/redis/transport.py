"""kombu's Redis transports with channels that lose nothing."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from kombu.log import get_logger
from kombu.transport import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from celery_laravel.transport.keeper import LeaseKeeper
from celery_laravel.transport.redis.channel import Channel, SentinelChannel
from celery_laravel.transport.redis.poller import Poller
from celery_laravel.transport.redis.reservation import LOOK_INTERVAL

if TYPE_CHECKING:
    from celery_laravel.transport.redis.wake_up import WakeUp


logger = get_logger(__name__)
_Base: Any = object  # mixed in before one of kombu's classes

LONGEST_RENEWAL_INTERVAL = 60.0
SHORTEST_INTERVAL = 0.1


class Keeping(_Base):
    """What both transports share: telling the server that this process lives, and finding what dead ones left.

    Both are done in a thread: with the solo pool the event loop stands still
    while a job runs, and a job that outlasts ``visibility_timeout`` is what
    messages are renewed for.
    """

    renews_what_it_holds = True

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        lost: tuple[type[Exception], ...] = self.connection_errors  # type: ignore[has-type]  # of the class it is mixed into
        self.connection_errors = (*lost, ReadOnlyError)  # another server is the master now
        self.cycle: Any = Poller()
        self._loop: Any = None
        self._timer_entry: Any = None
        self._keeper: LeaseKeeper | None = None
        self._renewed_at = 0.0
        self._in_round = threading.Lock()

    def establish_connection(self) -> Any:
        """Connect; kombu does.

        Raises:
            redis.exceptions.ConnectionError: There is no server, or it is a
                replica. To connect to one would be to lose the connection at
                the first write: a worker would do that without end, or die.
        """
        connection = super().establish_connection()
        try:
            self._refuse_replicas()
        except BaseException:
            super().close_connection(connection)
            raise
        self._keeper = LeaseKeeper(self._keep)
        return connection

    def _refuse_replicas(self) -> None:
        try:
            found = self.channels[0].client.info("replication")
        except ResponseError as error:
            logger.debug("The Redis server does not say whether it is a replica: %s", error)
            return
        if found.get("role") == "slave" and found.get("slave_read_only", 1):
            raise RedisConnectionError("The server is a replica, which takes no writes. Let the URL lead to the master")

    def close_connection(self, connection: Any) -> None:
        """Put back what is not acknowledged, and close."""
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
        if self._timer_entry is not None:
            self._timer_entry.cancel()
            self._timer_entry = None
        # Not while the thread uses what is closed here; but a server that does not answer keeps nobody from closing.
        waited = self._in_round.acquire(timeout=1)
        try:
            super().close_connection(connection)
        finally:
            if waited:
                self._in_round.release()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Deliver from the worker's event loop."""
        super().register_with_event_loop(connection, loop)
        self._loop = loop
        if self._timer_entry is None:
            self._timer_entry = loop.call_repeatedly(LOOK_INTERVAL, _turn)

    def start_keeper(self) -> None:
        """See to it, from now on, that what this connection holds is renewed and what is abandoned is put back."""
        if self._keeper is not None:
            self._keeper.start(self._interval())

    def forget(self, channel: Any, wake_up: WakeUp) -> None:
        """Listen no more to a connection that woke a channel."""
        fileno = self.cycle.forget(channel, wake_up)
        if fileno is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(fileno)
        else:
            self.cycle.poller.unregister(fileno)

    def _keep(self) -> None:
        with self._in_round:
            keeping = self._keeping()
            now = monotonic()
            timeout = min((channel.visibility_timeout for channel in keeping), default=0)
            is_due = now - self._renewed_at >= min(LONGEST_RENEWAL_INTERVAL, timeout / 3)
            for channel in keeping:
                (channel.qos.renew if is_due else channel.qos.settle_owed)()
            if is_due:
                self._renewed_at = now
            for channel in keeping[:1]:
                if found := channel.held.put_back_abandoned(timeout, channel.unacked_restore_limit):
                    logger.warning("Put back %d message(s) whose worker was not heard of for %s s", found, timeout)

    def _keeping(self) -> list[Any]:
        return [channel for channel in list(self.channels) if channel.ack_emulation and not channel.closed]

    def _interval(self) -> float:
        """Seconds between two rounds: kombu's between two of its looks, less for a short ``visibility_timeout``."""
        timeouts = [channel.visibility_timeout for channel in self._keeping()]
        asked = [getattr(channel, "unacked_restore_interval", 10) or 10 for channel in self._keeping()]
        return float(max(SHORTEST_INTERVAL, min([*asked, *(timeout / 4 for timeout in timeouts)])))


class Transport(Keeping, redis.Transport):
    """kombu's way to a ``redis://`` or ``rediss://`` broker."""

    Channel = Channel


class SentinelTransport(Keeping, redis.SentinelTransport):
    """kombu's way to a ``sentinel://`` broker."""

    Channel = SentinelChannel


def _turn() -> None:
    """Nothing to do: a timer that fires ends the loop's sleep, and each of its turns may look."""
