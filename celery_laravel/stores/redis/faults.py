"""Which errors say that the store cannot serve, and how long a call goes on trying."""

from __future__ import annotations

import random
import re
import time
from typing import NoReturn

from redis.exceptions import (
    AuthenticationError,
    RedisClusterException,
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

RETRY_FOR = 3.0
"""Seconds after which a call that could not be made is not tried again."""
PAUSES = (0.0, 0.1, 0.3, 0.8, 1.5)
"""Seconds before each further try, on average. The first comes at once: the connection may just have been stale."""

UNAVAILABLE: tuple[type[Exception], ...] = (RedisError, RedisClusterException, OSError)
"""What redis-py raises; its exception of clusters that cannot be reached is of no family."""

PASSING = {"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "ASK", "NOREPLICAS", "BUSY"}
"""Codes of a server that cannot serve now and may soon: it starts, has become a replica, or runs a long script."""
UNFIT = {"NOAUTH", "WRONGPASS", "NOPERM", "OOM", "MISCONF", "MOVED"}
"""Codes of a server that will not serve until somebody sees to it."""

_LOST = (RedisConnectionError, RedisTimeoutError, RedisClusterException, OSError)
_OF_CLASSES = {
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "AskError": "ASK",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "MovedError": "MOVED",
}
"""redis-py takes the code off some answers and makes a class of it; which, depends on its version."""
_IN_SCRIPT = re.compile(
    r"-([A-Z]{3,}) "
)  # Redis 6 wraps what a script's command answered: "ERR Error running … -OOM …"


class Patience:
    """How long a call goes on trying, and what it says at last."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._until = time.monotonic() + RETRY_FOR
        self._pauses = iter(PAUSES)

    def after(self, error: Exception) -> None:
        """Wait before the next try.

        Raises:
            StoreUnavailableError: It is no use, or has been tried long enough.
        """
        pause = next(self._pauses, None)
        if pause is None or time.monotonic() >= self._until or not _may_pass(error):
            self._give_up(error)
        time.sleep(pause * random.uniform(0.5, 1.5))

    def _give_up(self, error: Exception) -> NoReturn:
        code, reason = _code(error), str(error) or type(error).__name__
        if code == "MOVED":
            reason = "it is a node of a cluster: write redis+cluster:// instead of redis://"
        elif code and code not in reason:
            reason = f"{code} {reason}"
        raise StoreUnavailableError(self._url, reason) from error


def is_unavailable(error: Exception) -> bool:
    """Whether an error says that the store cannot serve, rather than that it was asked something wrong."""
    if isinstance(error, ResponseError) and not isinstance(error, AuthenticationError):
        return _code(error) in PASSING | UNFIT
    return isinstance(error, UNAVAILABLE)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, AuthenticationError):
        return False
    return isinstance(error, _LOST) or _code(error) in PASSING


def _code(error: Exception) -> str:
    for kind in type(error).__mro__:
        if kind.__name__ in _OF_CLASSES:
            return _OF_CLASSES[kind.__name__]
    if not isinstance(error, ResponseError):
        return ""
    inner = _IN_SCRIPT.search(str(error))
    return inner[1] if inner else str(error).partition(" ")[0]
