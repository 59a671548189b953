"""Learning that a queue may hold something, without taking it out."""

from __future__ import annotations

import ssl
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

INVALIDATIONS = "__redis__:invalidate"
PONGS = (b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", b"+PONG\r\n")
"""What a subscriber's ``PING`` is answered with, in RESP2 and RESP3."""


class WakeUp:
    """A connection on which the server says that a key changed which another connection looked at.

    Redis offers clients that cache what they read (``CLIENT TRACKING``, since
    6.0) to be told when to read again. What is cached here is that the queues
    were empty: the connection that found them so is tracked, and what it is to
    be told goes to this one, where any byte means "look again". It is told
    once for each time it looked, so a busy queue costs nothing.

    It is quiet for as long as the queues are, which some proxies take for
    dead. So it pings now and then, and a server that does not answer is gone.
    """

    def __init__(self, pool: Any) -> None:
        # Made outside the pool: it is of no use to anybody else, and kombu watches the pool's own.
        self.connection = pool.connection_class(**pool.connection_kwargs)
        self._tracked: Any = None
        self._redirect = 0
        self._heard_at = 0.0
        self._pinged_at: float | None = None
        self.opened_at = 0.0

    def open(self) -> None:
        """Connect and listen.

        Raises:
            redis.exceptions.ResponseError: The server does not let us.
        """
        self.connection.connect()
        try:
            self._redirect = int(_ask(self.connection, "CLIENT", "ID"))
            # RESP2 tells subscribers only; and a server closes idle connections, but not those of subscribers.
            self.connection.send_command("SUBSCRIBE", INVALIDATIONS)
            self.connection.read_response(push_request=True)
        except BaseException:
            self.close()
            raise
        self.socket.setblocking(False)
        self.opened_at = self._heard_at = monotonic()

    @property
    def socket(self) -> Any:
        """To be polled for reading."""
        return self.connection._sock  # noqa: SLF001 - kombu polls them likewise

    def track(self, connection: Any) -> None:
        """Have the server tell us when a key changes that ``connection`` has read; waits for its answer.

        Nothing may be under way on it. The second call for the same socket does nothing.
        """
        if self._tracked is not connection._sock:  # noqa: SLF001
            _ask(connection, "CLIENT", "TRACKING", "ON", "REDIRECT", self._redirect)
            self._tracked = connection._sock  # noqa: SLF001

    def ping(self, quiet: float, patience: float) -> None:
        """Ask for a sign of life when there was none for ``quiet`` seconds; `drain` reads it.

        Raises:
            redis.exceptions.ConnectionError: The last such question was not answered for ``patience`` seconds.
        """
        now = monotonic()
        if self._pinged_at is not None:
            if now - self._pinged_at >= patience:
                raise RedisConnectionError("The connection that wakes this consumer does not answer any more")
        elif now - self._heard_at >= quiet:
            self.connection.send_command("PING", check_health=False)
            self._pinged_at = now

    def drain(self) -> bool:
        """Read what was said, and tell whether a key has changed, which is all there is to know.

        Raises:
            redis.exceptions.ConnectionError: The server has closed the connection.
        """
        told = bytearray()
        sock = self.socket
        while sock is not None:
            try:
                said = sock.recv(65536)
            except OSError as error:
                if _would_block(error):
                    return self._was_told(bytes(told))
                raise RedisConnectionError(f"Lost the connection that wakes this consumer: {error}") from error
            if not said:
                break
            told += said
        raise RedisConnectionError("The server closed the connection that wakes this consumer")

    def _was_told(self, told: bytes) -> bool:
        if not told:
            return False
        self._heard_at, self._pinged_at = monotonic(), None
        for pong in PONGS:
            told = told.replace(pong, b"")
        return bool(told)

    def close(self) -> None:
        """Close the connection; the second time changes nothing."""
        self.connection.disconnect()
        self._tracked = None


def _ask(connection: Any, *command: Any) -> Any:
    connection.send_command(*command)
    return connection.read_response()


def _would_block(error: OSError) -> bool:
    return isinstance(error, (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError))
