"""``throttle()``: so many passages through a block of code in so much time."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery_laravel.errors import ConfigurationError, LimitTimeoutError, StoreUnavailableError
from celery_laravel.middleware.keys import key_text
from celery_laravel.middleware.limits.limit import Limit
from celery_laravel.middleware.limits.waiting import (
    Call,
    Steps,
    Wait,
    app_or_current,
    checked_seconds,
    run,
    run_async,
    undo,
)
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from celery import Celery

    from celery_laravel.stores.records import LimitAnswer

_NAME = "throttle"
"""The name under which stores count passages."""

_PADDING = 0.005
"""Seconds added to a wait, so that it does not end before the passage is due."""


def throttle(key: Any, app: Celery | None = None) -> Throttle:
    """Let a block of code be entered so many times in so many seconds, in all processes together.

        with throttle("geocoder").allow(10).every(60).block(5):
            geocode(address)

    Works in jobs, in web code, and in coroutines by ``async with``. ``key`` is a
    plain value or a tuple of them; the same key with another length is counted
    apart. ``app`` is Celery's current one unless another is given.
    """
    return Throttle(key_text(key), app)


@dataclass(frozen=True)
class Throttle:
    """A throttle as it is being described; each method returns another one, and each ``with`` counts a passage.

    A passage is counted when the block is entered, and stays counted whatever
    happens in it. Entering costs one call of the store, two where it has to
    wait: its own passage is kept for it, so those that wait do not compete.

    Raises:
        LimitTimeoutError: On entering: there is no room, nor will there be
            within `block`, which is known at once.
        ConfigurationError: On entering: `allow` or `every` is missing.
        StoreUnavailableError: On entering: the store does not answer.
    """

    key: str
    app: Celery | None = None
    allowed: int | None = None
    seconds: float | None = None
    block_seconds: float = 0.0

    def allow(self, allowed: int) -> Throttle:
        """Let so many passages be made in each window."""
        return replace(self, allowed=Limit.per_second(allowed).allowed)

    def every(self, seconds: float | timedelta) -> Throttle:
        """Let each window last so many seconds."""
        return replace(self, seconds=Limit.per(seconds, 1).seconds)

    def block(self, seconds: float | timedelta) -> Throttle:
        """Wait for so many seconds at most; without it, not at all."""
        return replace(self, block_seconds=checked_seconds("block()", seconds))

    def __enter__(self) -> None:
        run(self._enter())

    def __exit__(self, *error: object) -> None:
        """Leave the block: nothing is to be given back."""

    async def __aenter__(self) -> None:
        await run_async(self._enter())

    async def __aexit__(self, *error: object) -> None:
        """Leave the block: nothing is to be given back."""

    def _enter(self) -> Steps[None]:
        if self.allowed is None or self.seconds is None:
            missing = "allow(n)" if self.allowed is None else "every(seconds)"
            raise ConfigurationError(f"throttle({self.key!r}) does not say .{missing}.")
        limit = Limit.per(self.seconds, self.allowed).by(self.key)
        windows = limit.windows()
        limits = store_of(app_or_current(self.app)).limits
        if not self.block_seconds:
            yield from self._pass(partial(limits.take, _NAME, windows))
            return
        me = uuid4().hex
        try:
            yield from self._pass(partial(limits.take, _NAME, windows, caller=me))
        except StoreUnavailableError:
            raise
        except BaseException:
            keys = [window.key for window in windows]
            yield from undo(f"A passage of throttle({self.key!r})", partial(limits.cancel, _NAME, keys, caller=me))
            raise

    def _pass(self, take: Callable[[], LimitAnswer]) -> Steps[None]:
        deadline = time.monotonic() + self.block_seconds
        while True:
            answer = yield Call(take)
            if answer.granted:
                return
            if answer.delay > deadline - time.monotonic():
                raise self._no_room(answer.delay)
            yield Wait(answer.delay + _PADDING)

    def _no_room(self, delay: float) -> LimitTimeoutError:
        within = f" within {self.block_seconds:g} s" if self.block_seconds else ""
        msg = (
            f"throttle({self.key!r}) has no room{within}: {self.allowed} in {self.seconds:g} s; room in {delay:.3g} s."
        )
        return LimitTimeoutError(msg, delay)
