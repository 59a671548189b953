"""``RateLimiter``: limiters by name, and limits for use outside of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from celery_laravel.errors import ConfigurationError, LimiterError, StoreUnavailableError
from celery_laravel.middleware.checks import refuse_async
from celery_laravel.middleware.keys import key_text
from celery_laravel.middleware.limits.limit import Limit
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

    from celery_laravel.middleware.contract import CurrentJob
    from celery_laravel.stores.contracts import LimitStore

    Limits = Limit | Sequence[Limit]
    Definition = Callable[[CurrentJob], Limits]

    _Defined = TypeVar("_Defined", bound=Callable[..., Any])

LONGEST_NAME = 200

_OUTSIDE = "attempts"
"""The name under which stores count what is done outside of jobs; those of limiters begin with ``limiter:``."""

_NOT_ITS_FAULT = (StoreUnavailableError, SoftTimeLimitExceeded, Retry, Ignore, Reject)
"""Exceptions out of a limiter that have a meaning of their own, which naming the limiter would hide."""

_definitions: dict[str, Any] = {}


class RateLimiter:
    """Limiters by name for `RateLimited`, and limits on anything else: an app's, by ``RateLimiter.for_app(app)``.

        RateLimiter.define("backups", lambda job: Limit.per_hour(1).by(job.arguments["user_id"]))

        logins = RateLimiter.for_app(app)
        if not logins.attempt(("login", email), Limit.per_minute(5)):
            raise TooManyRequests(retry_after=logins.available_in(("login", email)))

    Definitions belong to the process: every worker that runs the jobs has to
    make them, best in the module of the tasks. What is counted is in the app's
    store, for all processes alike. Used outside of jobs, a key is a plain value
    or a tuple of them; it has one window, so it is to be used with limits of
    one length: a limit of another length begins anew. Each call below is one
    call of the store, and raises `StoreUnavailableError` when that does not
    answer.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    @overload
    @classmethod
    def define(cls, name: str, callback: Definition | Limits) -> None: ...

    @overload
    @classmethod
    def define(cls, name: str) -> Callable[[_Defined], _Defined]: ...

    @classmethod
    def define(cls, name: Any, callback: Any = None) -> Any:
        """Say what the limiter of this name allows; a later definition takes the place of an earlier one.

        ``callback`` is called with the job at every attempt and returns a
        `Limit`, a list of them, which are taken all or none, or `Limit.none`.
        What is the same for all jobs may be given as it is. Without
        ``callback`` this is a decorator:

            @RateLimiter.define("search")
            def search(job): return Limit.per_second(20)

        Raises:
            ConfigurationError: The name is no text of 1 to 200 characters, or
                the callback is neither callable nor limits, or an async function.
        """
        if not is_name(name):
            raise ConfigurationError(
                f"RateLimiter.define({name!r}): a limiter's name is a text of 1 to {LONGEST_NAME} characters."
            )
        if callback is None:
            return lambda function: (cls.define(name, function), function)[1]
        refuse_async(f"RateLimiter.define({name!r})", "the callback", callback)
        _definitions[name] = callback if callable(callback) else _checked(name, callback)
        return None

    @classmethod
    def for_app(cls, app: Celery) -> RateLimiter:
        """The limits that are kept in an app's store.

        Raises:
            TypeError: It is no Celery app.
        """
        if not hasattr(app, "conf"):
            raise TypeError(f"RateLimiter.for_app({app!r}): that is no Celery app.")
        return cls(app)

    def attempt(self, key: Any, limit: Limit) -> bool:
        """Count a start if the limit has room for it, in one atomic step; whether it had."""
        window = _window(key, limit)
        return window is None or self._store.take(_OUTSIDE, [window]).granted

    def too_many(self, key: Any, limit: Limit) -> bool:
        """Whether the limit has no room now; nothing is counted, so that another process may be faster."""
        return self.remaining(key, limit) == 0

    def remaining(self, key: Any, limit: Limit) -> float:
        """How many more starts the limit has room for now; infinity without a limit."""
        window = _window(key, limit)
        if window is None:
            return float("inf")
        return max(0, window.limit - self._store.look(_OUTSIDE, window.key).count)

    def hit(self, key: Any, limit: Limit) -> int:
        """Count a start whatever the limit; return how many its window then has.

        For what is known to count only afterwards, such as a login that failed:
        ask `too_many` before, and `clear` on a success.
        """
        window = _window(key, limit)
        return 0 if window is None else self._store.hit(_OUTSIDE, window.key, seconds=window.seconds)

    def available_in(self, key: Any) -> float:
        """Seconds until the key's window ends and nothing counts any more; 0 when nothing does now."""
        return self._store.look(_OUTSIDE, key_text(key)).ends_in

    def clear(self, key: Any) -> bool:
        """Forget what is counted under a key; whether there was anything."""
        return self._store.clear(_OUTSIDE, key_text(key))

    @property
    def _store(self) -> LimitStore:
        return store_of(self._app).limits


def is_name(value: Any) -> bool:
    """Whether a value can be the name of a limiter: a text of 1 to `LONGEST_NAME` characters that can be printed."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()


def store_name(limiter: str) -> str:
    """The name under which stores count what a limiter allows."""
    return f"limiter:{limiter}"


def windows_for(name: str, job: Any) -> Sequence[Window]:
    """What the limiter of this name asks of the store for a job: all of these windows; none where there is no limit.

    Of limits with the same length and key the lowest stands for all of them.

    Raises:
        ConfigurationError: The limiter is not defined in this process, or gave
            something else than limits.
        LimiterError: It raised an exception.
    """
    windows: dict[str, Window] = {}
    for limit in _limits_for(name, job):
        for window in limit.windows():
            lowest = windows.setdefault(window.key, window)
            if window.limit < lowest.limit:
                windows[window.key] = window
    return tuple(windows.values())


def _limits_for(name: str, job: Any) -> Sequence[Limit]:
    try:
        definition = _definitions[name]
    except KeyError:
        defined = ", ".join(map(repr, sorted(_definitions))) or "none"
        msg = (
            f"The limiter {name!r} is not defined in this process (defined: {defined}). "
            f"Call RateLimiter.define({name!r}, …) in a module that every worker imports."
        )
        raise ConfigurationError(msg) from None
    if not callable(definition):
        return definition  # type: ignore[no-any-return]
    try:
        limits = definition(job)
    except _NOT_ITS_FAULT:
        raise
    except ConfigurationError as error:
        raise ConfigurationError(f"The limiter {name!r}: {error}") from error
    except Exception as error:
        raise LimiterError(name, error) from error
    return _checked(name, limits)


def _checked(name: str, limits: Any) -> Sequence[Limit]:
    if isinstance(limits, Limit):
        return (limits,)
    if isinstance(limits, (list, tuple)) and all(isinstance(limit, Limit) for limit in limits):
        return limits
    msg = (
        f"The limiter {name!r} gave {limits!r}, which is neither a Limit nor a list of them. "
        "Give Limit.per_minute(5), a list of limits, or Limit.none() for no limit."
    )
    raise ConfigurationError(msg)


def _window(key: Any, limit: Any) -> Window | None:
    if not isinstance(limit, Limit):
        raise ConfigurationError(f"{limit!r} is no Limit, such as Limit.per_minute(5); the key is {key!r}.")
    if limit.key:
        msg = f"{limit!r} has a key of its own, beside {key!r}. Leave .by() out, or count under both: ({key!r}, …)."
        raise ConfigurationError(msg)
    return None if limit.allowed is None else Window(key_text(key), limit.allowed, limit.seconds)
