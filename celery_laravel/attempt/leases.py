"""Leases: holds on locks that last for as long as their holder is alive, and for a minute after.

Whoever takes a lock as a lease renews it from a thread of its own process. The
worker's parent renews the leases of its children beside that
(`celery_laravel.worker.leases`), so that a lease is lost neither by a child
whose interpreter is blocked, nor by a parent that is cut off from its broker.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import LockAnswer, LockRequest

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
"""How long a lock outlives its holder at most."""

INTERVAL = 20.0
"""Seconds between two renewals: two may fail before a lease is lost."""

SLICE = 500
"""Owners in one call of the store."""


def acquire(store: Store, running: RunningJob, request: LockRequest) -> LockAnswer:
    """Take a lock for an attempt; it is freed when the attempt ends, and kept alive until then if it is a lease.

    Raises:
        StoreUnavailableError: The store did not answer. Should the lock have
            been taken all the same, it ends by itself.
    """
    answer = store.locks.acquire(request)
    if answer.acquired:
        if request.key not in running.locks:
            running.locks.append(request.key)
        if request.is_lease:
            keep_alive(store, request.owner)
    return answer


def free(store: Store, running: RunningJob) -> None:
    """Free the locks of an attempt that has ended, in one call of the store whose answer is not waited for.

    Raises:
        StoreUnavailableError: They could not be freed. They are not renewed
            any more, so that leases end within `LEASE`.
    """
    keys, running.locks = running.locks, []
    let_go(running.owner)
    store.locks.release_soon(keys, owner=running.owner)


def keep_alive(store: Store, owner: str) -> None:
    """Renew the leases of an owner for as long as this process lives, or until `let_go`. Twice is once."""
    _keeper().hold(store, owner)


def let_go(owner: str) -> None:
    """Renew the leases of an owner no longer; one that is not known is ignored."""
    _keeper().drop(owner)


def renew(store: Store, owners: Sequence[str]) -> None:
    """Renew the leases of these owners, in one call of the store for every `SLICE` of them."""
    for start in range(0, len(owners), SLICE):
        store.locks.renew(owners[start : start + SLICE], ttl=LEASE)


class LeaseKeeper:
    """Renews the leases that this process holds, from a thread that lives while there are any.

    A lease is renewed for the first time when it is half an interval old, so
    that short attempts cost nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[Store, float]] = {}
        self._thread: threading.Thread | None = None

    def hold(self, store: Store, owner: str) -> None:
        """Begin to renew an owner's leases."""
        with self._lock:
            self._held.setdefault(owner, (store, time.monotonic()))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="celery-laravel-leases", daemon=True)
                self._thread.start()

    def drop(self, owner: str) -> None:
        """Renew an owner's leases no longer."""
        with self._lock:
            self._held.pop(owner, None)

    def _run(self) -> None:
        is_failing = False
        while True:
            time.sleep(INTERVAL)
            with self._lock:
                if not self._held:
                    self._thread = None
                    return
            is_failing = not self._renew_all(is_failing=is_failing)

    def _renew_all(self, *, is_failing: bool) -> bool:
        """Renew what is due; True when all stores answered. What goes wrong is logged once until it is right again."""
        all_answered = True
        for store, owners in self._due():
            try:
                renew(store, owners)
            except Exception:
                all_answered = False
                if not is_failing:
                    logger.exception("The leases of %s running jobs could not be renewed in %s", len(owners), store.url)
        if is_failing and all_answered:
            logger.warning("Leases are renewed again")
        return all_answered

    def _due(self) -> list[tuple[Store, list[str]]]:
        oldest = time.monotonic() - INTERVAL / 2
        by_store: dict[int, tuple[Store, list[str]]] = {}
        with self._lock:
            for owner, (store, since) in self._held.items():
                if since <= oldest:
                    by_store.setdefault(id(store), (store, []))[1].append(owner)
        return list(by_store.values())


_keepers: dict[int, LeaseKeeper] = {}


def _keeper() -> LeaseKeeper:
    """This process's keeper. One that was copied by a fork belongs to the parent, as do the leases it knows of."""
    keeper = _keepers.get(os.getpid())
    return _keepers.setdefault(os.getpid(), LeaseKeeper()) if keeper is None else keeper
