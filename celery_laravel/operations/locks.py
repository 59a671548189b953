"""Locks: who holds which, and freeing one by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_laravel.attempt.unique import stores_of

if TYPE_CHECKING:
    from celery import Celery

    from celery_laravel.stores.contracts import LockStore
    from celery_laravel.stores.records import LockRecord


class Locks:
    """The locks of an app: those that jobs hold, and those of unique jobs that wait in their queue.

    They are in the app's store, and in those that its tasks name by
    ``unique_via``; each of these is asked.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def all(self, limit: int | None = None) -> list[LockRecord]:
        """Every hold of a lock, the oldest first.

        A record has ``key``, ``owner``, ``task``, ``kind``, ``taken_at`` and
        ``expires_at``, which is None for a hold that lasts until it is freed; a
        lock with several slots has one for each holder. That of an overlap lock
        begins with the id of the job that holds it.
        """
        found = [record for store in self._stores() for record in store.all(limit=limit)]
        return sorted(found, key=lambda record: record.taken_at)[:limit]

    def find(self, key: str) -> list[LockRecord]:
        """The holds of one lock, the oldest first; none when it is free."""
        return [record for store in self._stores() for record in store.find(key)]

    def release(self, key: str) -> bool:
        """Free a lock whoever holds it; True when it was held.

        A job that holds it is not told and runs on: another of the same key may
        then run beside it.
        """
        return sum([store.free(key) for store in self._stores()]) > 0

    def _stores(self) -> list[LockStore]:
        return [store.locks for store in stores_of(self._app)]
