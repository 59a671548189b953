"""Connections to one server: held between calls, never shared by two, made anew after a fork."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from celery_laravel.settings import without_password
from celery_laravel.stores.redis.faults import Patience, is_unavailable
from celery_laravel.stores.redis.scripts import packed_command
from celery_laravel.stores.redis.urls import connection_pool
from celery_laravel.stores.servers import server_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_laravel.stores.redis.scripts import Argument, Call, Script

logger = logging.getLogger(__name__)

KEPT_IDLE = 64
MOST_OWED = 16
"""Answers that may be outstanding on one connection before somebody waits for them."""


class Connections:
    """Calls to one server, or to the master that sentinels name.

    A call takes an idle connection, or makes one, and puts it back once the
    answer is in; so there are as many as calls at one time, whether by threads
    or by greenlets. An exception that comes from outside while an answer is
    awaited (a time limit, a kill) costs the connection, never the next call's
    answer. A process that was forked leaves its parent's connections alone.

    A call whose connection is lost is made again, for about three seconds; the
    scripts are such that a repeated call does nothing twice.

    What is posted is sent at once, and its answer read with that of the next
    call, so that nobody waits for it. If that answer shows that it was not done,
    it is sent again with the next call.
    """

    def __init__(self, url: str) -> None:
        self.url = without_password(url)
        self._pool = connection_pool(url)
        self.server = server_of(self._pool)
        self._pid = os.getpid()
        self._idle: deque[Any] = deque()
        self._undone: deque[bytes] = deque()
        self._posted: set[bytes] = set()

    def call(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run a script on the server and return its answer.

        Raises:
            StoreUnavailableError: The server cannot be reached, or cannot serve.
        """
        try:
            return self._exchange([script.packed(keys, arguments)])[0]
        except NoScriptError:
            return self._retry(None, [script.packed_in_full(keys, arguments)])[0]
        except (RedisError, OSError) as error:
            return self._retry(error, [script.packed_in_full(keys, arguments)])[0]

    def call_many(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run a script several times in one round trip; each time is a step of its own."""
        try:
            return self._exchange([script.packed(keys, arguments) for keys, arguments in calls])
        except (RedisError, OSError) as error:
            first = None if isinstance(error, NoScriptError) else error
            return self._retry(first, [script.packed_in_full(keys, arguments) for keys, arguments in calls])

    def post(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> None:
        """Have a script run on the server, without waiting for the answer. The script must bear to be run twice.

        The first time it is waited for all the same, which makes the server
        know the script.

        Raises:
            StoreUnavailableError: The server cannot be reached.
        """
        if script.digest not in self._posted:
            self.call(script, keys, arguments)
            self._posted.add(script.digest)
            return
        try:
            self._post(script.packed(keys, arguments), script.packed_in_full(keys, arguments))
        except (RedisError, OSError):
            self.call(script, keys, arguments)

    def command(self, *arguments: Argument) -> Any:
        """Send a command that may be repeated, and return its answer."""
        packed = [packed_command(arguments)]
        try:
            return self._exchange(packed)[0]
        except (RedisError, OSError) as error:
            return self._retry(error, packed)[0]

    def close(self) -> None:
        """Close what is idle; a connection in use is closed by its call's end if the call fails, and kept otherwise."""
        if self._pid != os.getpid():
            self._idle = deque()
            return
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            self._drop(connection)

    def _retry(self, error: Exception | None, commands: list[bytes]) -> list[Any]:
        patience = Patience(self.url)
        while True:
            if error is not None:
                if not is_unavailable(error):
                    raise error
                self.close()  # they have probably all gone the same way, and a replica must not be asked again
                patience.after(error)
            try:
                return self._exchange(commands)
            except (RedisError, OSError) as again:
                error = again

    def _post(self, packed: bytes, in_full: bytes) -> None:
        connection = self._take()
        if len(_owed(connection)) >= MOST_OWED:
            self._give_back(connection)
            self._exchange([packed])
            return
        try:
            connection.send_packed_command([packed], check_health=False)
        except BaseException:
            self._drop(connection)
            raise
        _owed(connection).append(in_full)
        self._give_back(connection)

    def _exchange(self, commands: list[bytes]) -> list[Any]:
        """Send commands and return their answers, or raise the first error among them once all are in."""
        connection = self._take()
        owed = _owed(connection)
        undone = self._take_undone() if self._undone else ()
        try:
            connection.send_packed_command([*undone, *commands] if undone else commands, check_health=False)
            late = [_answer(connection) for _ in range(len(owed) + len(undone))]
            answers = [_answer(connection) for _ in commands]
        except BaseException:  # out of step: whoever used it next would read our answer
            self._undone.extend(undone)
            self._drop(connection)
            raise
        if late:
            posted = zip([*owed, *undone], late, strict=True)
            self._undone.extend(command for command, answer in posted if _is_undone(answer))
            owed.clear()
        self._give_back(connection)
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers

    def _take_undone(self) -> list[bytes]:
        """What is to be sent again, one by one, as other threads take and add."""
        taken: list[bytes] = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._undone.popleft())
        return taken

    def _take(self) -> Any:
        if self._pid != os.getpid():
            self._pid, self._idle, self._undone = os.getpid(), deque(), deque()
        try:
            return self._idle.pop()
        except IndexError:
            # Made outside the pool, which counts what it has made, and makes no more after the hundredth of its life.
            connection = self._pool.connection_class(**self._pool.connection_kwargs)
            connection.connect()  # sending would connect too, but not by way of sentinels
            return connection

    def _give_back(self, connection: Any) -> None:
        if len(self._idle) < KEPT_IDLE:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: Any) -> None:
        self._undone.extend(_owed(connection))
        connection.disconnect()


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:  # an answer like any other: the connection is still in step
        return error


def _owed(connection: Any) -> list[bytes]:
    """What was posted on a connection and not yet answered, in the form that needs no script to be known."""
    owed: list[bytes] = connection.__dict__.setdefault("celery_laravel_owed", [])
    return owed


def _is_undone(answer: Any) -> bool:
    """Whether what was posted is to be sent again; an error that would come again is logged."""
    if not isinstance(answer, ResponseError):
        return False
    if isinstance(answer, NoScriptError) or is_unavailable(answer):
        return True
    logger.error("The end of a job's turn could not be written down: %s", answer)
    return False
