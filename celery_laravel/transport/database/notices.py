"""Hearing of new messages instead of looking for them, on databases that can tell."""

from __future__ import annotations

import os
import secrets
import select
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from kombu.log import get_logger

from celery_laravel.threads import background
from celery_laravel.transport.database.errors import DatabaseBrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

logger = get_logger(__name__)

# A worker that is told of every single message of a burst would do little else. It hears of the first at once, and
# of those that come meanwhile when so many seconds have passed.
SHORTEST_REST = 0.02
# How long a notice may take that is sent to see whether notices arrive.
PROOF_TIME = 5.0
SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class Notices(Protocol):
    """A connection on which the database tells of queues with new messages."""

    def fileno(self) -> int:
        """What to wait on."""

    def read(self) -> list[str]:
        """The names that have come since the last call; empty if there are none. Does not wait.

        Raises:
            DatabaseBrokerError: The connection is lost.
        """

    def close(self) -> None:
        """Give the connection up; the second time changes nothing."""


class Listener:
    """A thread that waits for notices and passes them on.

    Notices count as heard only once one that was sent for a test has come
    back: through a pooler that lends connections by the transaction, to listen
    is allowed and nothing ever comes. Until then, and while the connection is
    lost, `is_listening` is False, and whoever needs messages has to look.

    Args:
        open_notices: Opens a connection that listens.
        send: Sends a notice for a name, on another connection.
        hear: Called, in the thread, with the names that were heard, or with None when some may have been missed.
            Returns whether they were of interest.
    """

    def __init__(
        self,
        open_notices: Callable[[], Notices],
        send: Callable[[Sequence[str]], None],
        hear: Callable[[Collection[str] | None], bool],
    ) -> None:
        self._open, self._send = open_notices, send
        self._hear = hear
        self.is_listening = False
        self._stopped = threading.Event()
        self._notices: Notices | None = None
        self._reader, self._writer = os.pipe()
        background(self._run, "notices")

    def stop(self) -> None:
        """Let the thread end and close its connection, without waiting for either."""
        if not self._stopped.is_set():
            self._stopped.set()
            self.is_listening = False
            with suppress(BrokenPipeError):  # the thread has ended already, and closed its end
                os.write(self._writer, b"\0")
            os.close(self._writer)

    def _run(self) -> None:
        pause = SHORTEST_PAUSE
        try:
            while not self._stopped.is_set():
                try:
                    if not self._listen():
                        return
                    pause = SHORTEST_PAUSE
                except (DatabaseBrokerError, OSError) as error:
                    pause = self._rest_after(error, pause)
        except Exception:
            logger.exception("Listening for new messages ended; looking for them instead")
        finally:
            self.is_listening = False
            self._close()
            os.close(self._reader)

    def _rest_after(self, error: Exception, pause: float) -> float:
        """Wait, unless stopped, and say how long to wait the next time."""
        was_listening, self.is_listening = self.is_listening, False
        self._close()
        if self._stopped.is_set():
            return pause
        if was_listening:
            logger.warning("Cannot hear of new messages; looking for them meanwhile. %s", error)
            self._hear(None)  # whoever waits for notices has to begin to look
            pause = SHORTEST_PAUSE
        self._stopped.wait(pause)
        return min(pause * 2, LONGEST_PAUSE)

    def _listen(self) -> bool:
        """Pass notices on until stopped; False if there are none to be had."""
        notices = self._notices = self._open()
        if not self._hears(notices):
            if not self._stopped.is_set():
                logger.info(
                    "Notices of new messages do not arrive on this connection, as through a pooler that lends "
                    "connections by the transaction. Looking for messages instead"
                )
            return False
        self.is_listening = True
        self._hear(None)  # for what came while nobody listened
        while not self._stopped.is_set():
            self._wait_for(notices, None)
            names = notices.read()
            if names and not self._stopped.is_set() and self._hear(names):
                self._stopped.wait(SHORTEST_REST)
        return True

    def _hears(self, notices: Notices) -> bool:
        proof = f"?{secrets.token_hex(8)}"
        self._send([proof])
        end = time.monotonic() + PROOF_TIME
        while not self._stopped.is_set() and (left := end - time.monotonic()) > 0:
            self._wait_for(notices, left)
            if proof in notices.read():
                return True
        return False

    def _wait_for(self, notices: Notices, seconds: float | None) -> None:
        poll = getattr(select, "poll", None)
        if poll is None:  # Windows, and where gevent has put something of its own in its place
            select.select([notices.fileno(), self._reader], [], [], seconds)
            return
        waiting = poll()
        waiting.register(notices.fileno(), select.POLLIN)
        waiting.register(self._reader, select.POLLIN)
        waiting.poll(None if seconds is None else seconds * 1000)

    def _close(self) -> None:
        notices, self._notices = self._notices, None
        if notices is not None:
            with suppress(DatabaseBrokerError, OSError):  # it is given up anyhow
                notices.close()
