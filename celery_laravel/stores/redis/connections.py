"""Connections to one server: held between calls, never shared by two, made anew after a fork."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from celery_laravel.settings import without_password
from celery_laravel.stores.redis.faults import Patience, is_unavailable
from celery_laravel.stores.redis.scripts import packed_command
from celery_laravel.stores.redis.urls import connection_maker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_laravel.stores.redis.scripts import Argument, Call, Script

KEPT_IDLE = 64


class Connections:
    """Calls to one server, or to the master that sentinels name.

    A call takes an idle connection, or makes one, and puts it back once the
    answer is in; so there are as many as calls at one time, whether by threads
    or by greenlets. An exception that comes from outside while an answer is
    awaited (a time limit, a kill) costs the connection, never the next call's
    answer. A process that was forked leaves its parent's connections alone.

    A call whose connection is lost is made again, for about three seconds; the
    scripts are such that a repeated call does nothing twice.
    """

    def __init__(self, url: str) -> None:
        self.url = without_password(url)
        self._make = connection_maker(url)
        self._pid = os.getpid()
        self._idle: deque[Any] = deque()

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
            connection.disconnect()

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

    def _exchange(self, commands: list[bytes]) -> list[Any]:
        """Send commands and return their answers, or raise the first error among them once all are in."""
        if self._pid != os.getpid():
            self._pid, self._idle = os.getpid(), deque()
        idle = self._idle
        try:
            connection = idle.pop()
        except IndexError:
            connection = self._make()
            connection.connect()  # sending would connect too, but not by way of sentinels
        try:
            connection.send_packed_command(commands, check_health=False)
            answers = [_answer(connection) for _ in commands]
        except BaseException:  # out of step: whoever used it next would read our answer
            connection.disconnect()
            raise
        if len(idle) < KEPT_IDLE:
            idle.append(connection)
        else:
            connection.disconnect()
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:  # an answer like any other: the connection is still in step
        return error
