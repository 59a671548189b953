"""Connections to one server: held between calls, never shared by two, made anew after a fork."""

from __future__ import annotations

import os
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

from redis.exceptions import (
    AuthenticationError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.redis.urls import connection_maker, without_passwords

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_laravel.stores.redis.scripts import Argument, Call, Script

RETRY_FOR = 3.0
"""Seconds after which a call that could not be made is not tried again."""
PAUSES = (0.0, 0.1, 0.3, 0.8, 1.5)
"""Seconds before each further try, on average. The first comes at once: the connection may just have been stale."""
KEPT_IDLE = 64

PASSING = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY")
"""Beginnings of answers from a server that cannot serve now and may soon: it starts, or has become a replica."""
UNFIT = ("NOAUTH", "WRONGPASS", "NOPERM", "OOM", "MISCONF", "MOVED", "ERR invalid password", "ERR Client sent AUTH")
"""Beginnings of answers from a server that will not serve until somebody sees to it."""


class Patience:
    """How long a call goes on trying, and what it says at last."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._until = time.monotonic() + RETRY_FOR
        self._pauses = iter(PAUSES)

    def after(self, error: BaseException) -> None:
        """Wait before the next try.

        Raises:
            StoreUnavailableError: It is no use, or has been tried long enough.
        """
        pause = next(self._pauses, None)
        if pause is None or time.monotonic() >= self._until or not may_pass(error):
            self.give_up(error)
        time.sleep(pause * random.uniform(0.5, 1.5))

    def give_up(self, error: BaseException) -> NoReturn:
        """Say that the store cannot be reached."""
        raise StoreUnavailableError(self._url, error) from error


def may_pass(error: BaseException) -> bool:
    """Whether a call that failed so may succeed soon."""
    if isinstance(error, AuthenticationError):
        return False
    return isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError)) or str(error).startswith(PASSING)


def is_unavailable(error: BaseException) -> bool:
    """Whether an error says that the store cannot serve, rather than that it was asked something wrong.

    redis-py takes the code off some answers, and makes an exception of its own of them.
    """
    if not isinstance(error, ResponseError):
        return isinstance(error, (RedisError, OSError))
    kinds = {"ReadOnlyError", "ClusterDownError", "MasterDownError", "TryAgainError", "OutOfMemoryError", "MovedError"}
    return type(error).__name__ in kinds | {"NoPermissionError"} or str(error).startswith(PASSING + UNFIT)


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
        self.url = without_passwords(url)
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
        from celery_laravel.stores.redis.scripts import packed_command

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

    def _retry(self, error: BaseException | None, commands: list[bytes]) -> list[Any]:
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
