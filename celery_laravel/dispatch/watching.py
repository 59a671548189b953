"""Looking at a batch again and again, until it has finished."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from celery_laravel.dispatch.batch import Batch

_FIRST_LOOK, _LAST_LOOK = 0.05, 0.5


def snapshots(look: Callable[[], Batch], timeout: float | None = None) -> Iterator[Batch]:
    """Yield what ``look`` returns, now and whenever it has changed; the last one is finished.

    Raises:
        TimeoutError: It had not finished after ``timeout`` seconds.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    latest: Batch | None = None
    pause = _FIRST_LOOK
    while True:
        seen = look()
        if seen != latest:
            latest, pause = seen, _FIRST_LOOK
            yield latest
        if latest.finished:
            return
        # After a change too: a busy batch is not to be asked without a break, nor past a deadline.
        time.sleep(_within(deadline, pause, look))
        pause = min(pause * 1.5, _LAST_LOOK)


async def async_snapshots(look: Callable[[], Batch]) -> AsyncIterator[Batch]:
    """`snapshots`, for async code: ``look`` is called in a thread."""
    import asyncio  # here, because few need it and everybody would wait for it

    latest: Batch | None = None
    pause = _FIRST_LOOK
    while True:
        seen = await asyncio.to_thread(look)
        if seen != latest:
            latest, pause = seen, _FIRST_LOOK
            yield latest
        if latest.finished:
            return
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LAST_LOOK)


def _within(deadline: float | None, seconds: float, look: Callable[[], Batch]) -> float:
    if deadline is None:
        return seconds
    left = deadline - time.monotonic()
    if left <= 0:
        batch = look()
        raise TimeoutError(f"The batch {batch.name or batch.id!r} has not finished in time: {batch!r}.")
    return min(seconds, left)
