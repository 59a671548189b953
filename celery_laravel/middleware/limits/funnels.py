"""``funnel()``: so many in a block of code at one time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import current_task

from celery_laravel.errors import ConfigurationError, LimitTimeoutError, StoreUnavailableError
from celery_laravel.middleware.checks import wrong
from celery_laravel.middleware.keys import key_text
from celery_laravel.middleware.limits.limit import is_count
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
from celery_laravel.stores.records import LockRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from celery_laravel.stores.contracts import LockStore
    from celery_laravel.stores.records import LockAnswer

PAUSE = 0.1
"""Seconds between two looks at a funnel that is full."""


def funnel(key: Any, app: Celery | None = None) -> Funnel:
    """Let at most so many be in a block of code at one time, in all processes together.

        with funnel("reports").limit(3).release_after(60).block(10):
            build_report()

    Works in jobs, in web code, and in coroutines by ``async with``. ``key`` is a
    plain value or a tuple of them. ``app`` is Celery's current one unless
    another is given.
    """
    return Funnel(key_text(key), app)


class _Held:
    """The owners under which places are held, by who is in the block: one funnel may serve several threads at a time.

    A block may be left in another thread than it was entered in, as those of
    generators are at times. Then any place is given up: they are alike.
    """

    def __init__(self) -> None:
        self._owners: list[tuple[str, int]] = []
        self._mutex = threading.Lock()

    def put(self, owner: str, who: int) -> None:
        with self._mutex:
            self._owners.append((owner, who))

    def pop(self, who: int) -> str:
        with self._mutex:
            mine = [place for place, (_, holder) in enumerate(self._owners) if holder == who]
            return self._owners.pop(mine[-1] if mine else -1)[0]


@dataclass(frozen=True)
class Funnel:
    """A funnel as it is being described; each method returns another one, and each ``with`` takes a place in it.

    A place is free again when the block is left, or after `release_after`,
    whichever comes first: a process that dies keeps its place no longer than
    that, and a block that takes longer may find one more beside it. Entering
    and leaving are one call of the store each; while the funnel is full, there
    is one every tenth of a second, and those that wait are not served in order.

    Raises:
        LimitTimeoutError: On entering: no place became free within `block`.
        ConfigurationError: On entering: `limit` is missing.
        StoreUnavailableError: On entering: the store does not answer. Should
            it not answer on leaving, that is logged, and the place becomes free
            by itself.
    """

    key: str
    app: Celery | None = None
    places: int | None = None
    release_seconds: float = 60.0
    block_seconds: float = 0.0
    _held: _Held = field(default_factory=_Held, init=False, compare=False, repr=False)

    def limit(self, places: int) -> Funnel:
        """Let so many be in the block at one time."""
        if not is_count(places):
            raise wrong(f"funnel({self.key!r})", "limit()", "a whole number, 1 or more", places)
        return replace(self, places=places)

    def release_after(self, seconds: float | timedelta) -> Funnel:
        """Free a place after so many seconds at the latest (60 unless it is said): more than the block ever takes."""
        length = checked_seconds("release_after()", seconds)
        if length == 0:
            raise wrong(f"funnel({self.key!r})", "release_after()", "above 0 seconds", seconds)
        return replace(self, release_seconds=length)

    def block(self, seconds: float | timedelta) -> Funnel:
        """Wait for so many seconds at most; without it, not at all."""
        return replace(self, block_seconds=checked_seconds("block()", seconds))

    def __enter__(self) -> None:
        self._held.put(run(self._enter()), threading.get_ident())

    def __exit__(self, *error: object) -> None:
        run(self._leave(self._held.pop(threading.get_ident())))

    async def __aenter__(self) -> None:
        self._held.put(await run_async(self._enter()), _this_coroutine())

    async def __aexit__(self, *error: object) -> None:
        await run_async(self._leave(self._held.pop(_this_coroutine())))

    @property
    def _lock(self) -> str:
        return f"funnel:{self.key}"

    @property
    def _locks(self) -> LockStore:
        return store_of(app_or_current(self.app)).locks

    def _enter(self) -> Steps[str]:
        if self.places is None:
            raise ConfigurationError(f"funnel({self.key!r}) does not say .limit(n).")
        locks, owner = self._locks, uuid4().hex
        request = LockRequest(
            self._lock,
            owner,
            kind="funnel",
            task=current_task.name if current_task else "",
            ttl=timedelta(seconds=self.release_seconds),
            slots=self.places,
        )
        try:
            yield from self._take_place(partial(locks.acquire, request))
        except (StoreUnavailableError, LimitTimeoutError):
            raise
        except BaseException:  # the call that was interrupted may have taken a place
            yield from undo(f"A place in {self._lock!r}", partial(locks.release, [self._lock], owner=owner))
            raise
        return owner

    def _take_place(self, acquire: Callable[[], LockAnswer]) -> Steps[None]:
        deadline = time.monotonic() + self.block_seconds
        while True:
            answer = yield Call(acquire)
            if answer.acquired:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._full(answer.expires_in)
            yield Wait(min(PAUSE, left))

    def _leave(self, owner: str) -> Steps[None]:
        yield from undo(f"A place in {self._lock!r}", partial(self._locks.release, [self._lock], owner=owner))

    def _full(self, expires_in: float | None) -> LimitTimeoutError:
        within = f" within {self.block_seconds:g} s" if self.block_seconds else ""
        return LimitTimeoutError(f"funnel({self.key!r}) had no free place of {self.places}{within}.", expires_in)


def _this_coroutine() -> int:
    import asyncio  # here, because only those who have imported it get here

    return id(asyncio.current_task())
