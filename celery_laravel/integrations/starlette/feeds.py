"""Batches that are watched: each is asked for once, however many people look at it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from celery_laravel.telling import Telling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from celery_laravel.dispatch.batch import Batch

logger = logging.getLogger(__name__)


class Feed:
    """One batch, looked at again and again until it has finished.

    Watchers are told the latest state, not every one: who is slow misses some,
    and nothing piles up for them.
    """

    def __init__(self, batch: Batch, interval: float) -> None:
        self.watchers = 0
        self.is_gone = False
        """Whether the batch is no longer in the store."""
        self._latest = batch
        self._interval = interval
        self._changed = asyncio.Event()
        self._telling = Telling(logger, f"The progress of batch {batch.id}", "looked at")
        self._looking = asyncio.get_running_loop().create_task(self._look_on())

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to see."""
        return self.is_gone or self._latest.finished

    def show(self, batch: Batch) -> None:
        """Take a look that somebody else has had."""
        if batch != self._latest:
            self._latest = batch
            self._tell()

    async def snapshots(self, pause: float) -> AsyncIterator[Batch | None]:
        """The batch now and whenever it has changed, None when it has not for ``pause`` seconds; ends when it is over.

        The last batch is the finished one, unless the batch was removed meanwhile.
        """
        seen: Batch | None = None
        while True:
            changed = self._changed
            if seen is not self._latest:
                seen = self._latest
                yield seen
            elif self.is_over:
                return
            else:
                try:
                    await asyncio.wait_for(changed.wait(), pause)
                except asyncio.TimeoutError:
                    yield None

    def stop(self) -> None:
        """Look no more."""
        self._looking.cancel()

    async def _look_on(self) -> None:
        """The store is asked in a thread. While it does not answer, watchers see what was there before."""
        while not self.is_over:
            await asyncio.sleep(self._interval)
            with self._telling.once():
                batch = await asyncio.to_thread(self._latest.fresh)
                if batch is None:
                    self.is_gone = True
                    self._tell()
                else:
                    self.show(batch)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Feeds:
    """The feeds of one process, by event loop and batch: one begins with its first watcher and ends with its last."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._feeds: dict[tuple[int, str], Feed] = {}

    def __len__(self) -> int:
        return len(self._feeds)

    @contextlib.contextmanager
    def joined(self, batch: Batch) -> Iterator[Feed]:
        """Be a watcher of a batch that has just been looked at."""
        key = id(asyncio.get_running_loop()), batch.id
        feed = self._feeds.get(key)
        if feed is None or feed.is_over:  # a batch that had finished may have been retried since
            feed = self._feeds[key] = Feed(batch, self._interval)
        else:
            feed.show(batch)
        feed.watchers += 1
        try:
            yield feed
        finally:
            feed.watchers -= 1
            if not feed.watchers:
                feed.stop()
                if self._feeds.get(key) is feed:
                    del self._feeds[key]
