"""Leases: holds on locks and on attempts that last while their holder is alive, and for a minute after.

The lease of a lock keeps other jobs out; that of an attempt keeps copies of its
message from being started beside it.

Whoever has a lease renews it from a thread of its own process. The
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

from celery_laravel.errors import StoreUnavailableError
from celery_laravel.telling import log_failure
from celery_laravel.threads import background

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_laravel.attempt.running_job import RunningJob
    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import LockAnswer, LockRequest

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
"""How long a lock, or an attempt, outlives its holder at most."""

INTERVAL = 20.0
"""Seconds between two renewals: two may fail before a lease is lost."""

SLICE = 500
"""Leases in one call of the store."""


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


def keep_attempt_alive(store: Store, job_id: str, owner: str, *, begin: Callable[[], None] | None = None) -> None:
    """Renew the lease of an attempt for as long as this process lives, or until `let_go_of_attempt`. Twice is once.

    With ``begin`` there is no lease yet: that is called when one that was there
    would be renewed for the first time, and takes it.
    """
    _keeper().hold(store, owner, job_id, begin)


def let_go_of_attempt(job_id: str, owner: str) -> None:
    """Renew the lease of an attempt no longer; one that is not known is ignored."""
    _keeper().drop(owner, job_id)


def end_attempt(store: Store, job_id: str, owner: str) -> None:
    """End the lease of an attempt that is not going on, so that the job's next start need not wait for it.

    An attempt whose turn has ended, or that somebody else has started again
    meanwhile, is left alone.

    Raises:
        StoreUnavailableError: It could not be ended, and runs out within `LEASE`.
    """
    let_go_of_attempt(job_id, owner)
    store.attempts.renew({job_id: owner}, lease=timedelta(0))


def renew(store: Store, owners: Sequence[str], attempts: Mapping[str, str]) -> None:
    """Renew the locks of these owners, and these attempts, given as job id to owner.

    One call of the store for every `SLICE` of either kind, and none for
    nothing.
    """
    for start in range(0, len(owners), SLICE):
        store.locks.renew(owners[start : start + SLICE], ttl=LEASE)
    running = list(attempts.items())
    for start in range(0, len(running), SLICE):
        store.attempts.renew(dict(running[start : start + SLICE]), lease=LEASE)


class LeaseKeeper:
    """Renews the leases that this process holds, from a thread that lives while there are any.

    A lease is renewed for the first time when it is half an interval old, so
    that short attempts cost nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str | None], tuple[Store, float]] = {}
        self._unbegun: dict[tuple[str, str | None], Callable[[], None]] = {}
        self._thread: threading.Thread | None = None

    def hold(
        self, store: Store, owner: str, job_id: str | None = None, begin: Callable[[], None] | None = None
    ) -> None:
        """Begin to renew an owner's leases of locks, or its lease of a job's attempt."""
        with self._lock:
            if self._thread is None:
                self._thread = background(self._run, "leases")
            if begin is not None:
                self._unbegun[owner, job_id] = begin
            self._held.setdefault((owner, job_id), (store, time.monotonic()))

    def drop(self, owner: str, job_id: str | None = None) -> None:
        """Renew them no longer."""
        with self._lock:
            self._held.pop((owner, job_id), None)
            self._unbegun.pop((owner, job_id), None)

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
        for store, owners, attempts in self._due():
            try:
                renew(store, owners, self._begun(attempts))
            except Exception as error:
                all_answered = False
                if not is_failing:
                    what = "The leases of %s running jobs could not be renewed in %s"
                    log_failure(logger, error, what, len({*owners, *attempts.values()}), store.url)
        if is_failing and all_answered:
            logger.warning("Leases are renewed again")
        return all_answered

    def _begun(self, attempts: Mapping[str, str]) -> dict[str, str]:
        """These attempts, those that had no lease yet having taken it; one that cannot is in no other's way."""
        return {job_id: owner for job_id, owner in attempts.items() if self._has_begun(job_id, owner)}

    def _has_begun(self, job_id: str, owner: str) -> bool:
        with self._lock:
            begin = self._unbegun.get((owner, job_id))
        if begin is None:
            return True
        try:
            begin()
        except StoreUnavailableError:
            raise
        except Exception:  # of this one, which would come again: an id that the store does not take
            logger.exception("Job %s runs on, and has no lease that keeps a copy of it waiting", job_id)
            self.drop(owner, job_id)
            return False
        with self._lock:
            self._unbegun.pop((owner, job_id), None)
        return True

    def _due(self) -> list[tuple[Store, list[str], dict[str, str]]]:
        """By store: the owners of locks, and the attempts as job id to owner, that are old enough."""
        oldest = time.monotonic() - INTERVAL / 2
        by_store: dict[int, tuple[Store, list[str], dict[str, str]]] = {}
        with self._lock:
            for (owner, job_id), (store, since) in self._held.items():
                if since > oldest:
                    continue
                _, owners, attempts = by_store.setdefault(id(store), (store, [], {}))
                if job_id is None:
                    owners.append(owner)
                else:
                    attempts[job_id] = owner
        return list(by_store.values())


_keepers: dict[int, LeaseKeeper] = {}


def _keeper() -> LeaseKeeper:
    """This process's keeper. One that was copied by a fork belongs to the parent, as do the leases it knows of."""
    keeper = _keepers.get(os.getpid())
    return _keepers.setdefault(os.getpid(), LeaseKeeper()) if keeper is None else keeper
