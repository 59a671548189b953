"""kombu's poller, which also listens to what wakes idle channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import redis

from celery_laravel.transport.redis import reservation

if TYPE_CHECKING:
    from celery_laravel.transport.redis.wake_up import WakeUp

WAKE_UP = "WAKE_UP"


class Poller(redis.MultiChannelPoller):
    """Reads what arrives for a channel whether it has room for messages or not.

    A wake-up that waited to be read would keep the loop from sleeping, and an
    answer may hold a message that has to go back.
    """

    def watch(self, channel: Any, wake_up: WakeUp) -> None:
        """Listen to a connection that wakes a channel."""
        sock = wake_up.socket
        self._fd_to_chan[sock.fileno()] = (channel, WAKE_UP)
        self._chan_to_sock[(channel, wake_up, WAKE_UP)] = sock
        self.poller.register(sock, self.eventflags)

    def forget(self, channel: Any, wake_up: WakeUp) -> int | None:
        """Listen to it no more; its file descriptor if it was listened to."""
        sock = self._chan_to_sock.pop((channel, wake_up, WAKE_UP), None)
        if sock is None:
            return None
        fileno = next((fd for fd, of in self._fd_to_chan.items() if of == (channel, WAKE_UP)), None)
        self._fd_to_chan.pop(fileno, None)
        return fileno

    def on_readable(self, fileno: int) -> Any:
        """Read what has arrived."""
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if kind == WAKE_UP or (kind == "BRPOP" and channel.looks):
            return channel.handlers[kind]()
        return super().on_readable(fileno)

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Deliver one message, or raise ``Empty`` after ``timeout`` or the interval of looks."""
        self._keep_alive()
        longest = reservation.LOOK_INTERVAL
        return super().get(callback, longest if timeout is None else min(timeout, longest))

    def on_poll_init(self, poller: Any) -> None:
        """Use an event loop's poller."""
        self.poller = poller

    def maybe_restore_messages(self) -> None:
        """Do nothing: `Transport` looks for what is abandoned, in a thread."""

    def on_poll_start(self) -> None:
        """Begin to wait for messages where there is room for them, and keep the other connections alive."""
        super().on_poll_start()
        self._keep_alive()

    def _keep_alive(self) -> None:
        for channel in self._channels:
            if channel.reservation.is_quiet and channel.reserves and not channel.qos.can_consume():
                channel.reservation.keep_alive()

    def _pause_brpop(self, channel: Any, fileno: int) -> None:
        """Pause a connection while there is no room for what it may bring, as kombu 5.7 does, unless we look on it."""
        if not channel.looks:
            super()._pause_brpop(channel, fileno)
