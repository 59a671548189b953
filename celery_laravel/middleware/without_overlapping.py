"""Middleware that lets one job per key run at a time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery_laravel.attempt import leases
from celery_laravel.attempt.ownership import is_start_of
from celery_laravel.attempt.running_job import running_of
from celery_laravel.errors import ConfigurationError, StoreUnavailableError
from celery_laravel.middleware.checks import check_by, check_flags, seconds_in, wrong
from celery_laravel.middleware.intervention import Intervening, intervene
from celery_laravel.middleware.keys import key_of, shortened
from celery_laravel.middleware.outage import put_back_for_store
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import LockRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_laravel.stores.records import LockAnswer

KIND = "overlap"
PREFIX = "overlap:"

_LONGEST_KEY = 255
_ME = "WithoutOverlapping"


class WithoutOverlapping(Intervening):
    """Let one job per key run at a time; the others go back to their queue, or are skipped.

    The lock is taken before the job's code, in one call of the store, and freed
    when the attempt ends, however it ends, before anything follows from it.
    While the attempt runs the lock is kept alive; should its process or its
    machine die, it is free at most 60 seconds later. Every start of a job is a
    holder of its own: a copy of its message, or a job that dispatches itself and
    runs meanwhile, is turned away like any other.

        @app.task(tries=0, middleware=[WithoutOverlapping(by="account_id", release_after=30)])
        def post_entry(account_id, amount): ...

    A job that is turned away uses up an attempt, unless ``count_attempt`` is
    False or left to ``laravel_release_counts = False``: give it ``tries``
    enough, or a ``retry_until``, to outlast the job it waits for. A job that
    comes again because its worker died, and finds the lock of its own earlier
    start, waits until that ends; this uses up nothing, and is never a skip.

    Args:
        by: What the key is made of: a value, the name or names of arguments, or
            a callable of the job. Without it all jobs of the task have one key.
        release_after: Seconds or a timedelta after which a job that is turned
            away comes back; None: it is skipped, which counts as processed.
        expire_after: Seconds or a timedelta after which the lock is free even
            if its holder still runs. The lock is then no lease: after a crash of
            the whole worker it lasts exactly that long.
        release: False is the same as ``release_after=None``.
        shared: The key is one for all tasks, not for this one alone.
        prefix: What the key begins with, instead of ``overlap:``.
        count_attempt: Whether being turned away uses up an attempt; None leaves
            it to ``laravel_release_counts``.

    Raises:
        ConfigurationError: An option is of the wrong kind.
    """

    def __init__(  # noqa: PLR0917  in the order of the documentation
        self,
        by: Any = "",
        release_after: float | timedelta | None = 0,
        expire_after: float | timedelta | None = None,
        release: bool = True,
        shared: bool = False,
        prefix: str = PREFIX,
        count_attempt: bool | None = None,
    ) -> None:
        after = None if release_after is None else seconds_in(_ME, "release_after", release_after)
        expiry = None if expire_after is None else seconds_in(_ME, "expire_after", expire_after)
        check_flags(_ME, release=release, shared=shared, count_attempt=count_attempt)
        check_by(_ME, by)
        if expiry == 0:
            raise ConfigurationError(
                "WithoutOverlapping: expire_after = 0 would hold no lock at all. Give seconds above 0, "
                "or None to hold it for as long as the job runs."
            )
        if not isinstance(prefix, str):
            raise wrong(_ME, "prefix", "a string", prefix)
        self.by = by
        self._release_after = after if release else None
        self._expire_after = None if expiry is None else timedelta(seconds=expiry)
        self._is_shared = shared
        self._prefix = prefix
        self._count_attempt = count_attempt

    def key_for(self, job: Any) -> str:
        """The key under which the store keeps the lock that this job needs.

        Raises:
            TypeError: What ``by`` gives cannot be a key.
        """
        key = key_of(self.by, job)
        if not self._is_shared:
            key = f"{job.name}:{key}" if key else job.name
        return shortened(self._prefix + key, _LONGEST_KEY)

    def __call__(self, job: Any, next: Callable[[Any], Any]) -> Any:  # noqa: A002  the word the documentation uses
        """Go on if the lock can be taken; else put the job back, or skip it."""
        running = running_of(job)
        is_lease = self._expire_after is None
        request = LockRequest(
            self.key_for(job),
            running.owner,
            KIND,
            job.name,
            leases.LEASE if is_lease else self._expire_after,
            is_lease,
        )
        try:
            answer = leases.acquire(store_of(job.app), running, request)
        except StoreUnavailableError as error:
            return put_back_for_store(job, self, error)
        if answer.acquired:
            return next(job)
        return self._turn_away(job, request.key, answer)

    def _turn_away(self, job: Any, key: str, answer: LockAnswer) -> None:
        delay, counts, detail = self._release_after, self._count_attempt, f"key {key} is held by {answer.owner}"
        if is_start_of(job.request.id, answer.owner):
            delay, counts = max(1.0, answer.expires_in or 0.0), False
            detail = f"key {key} is held by an earlier start of this job"
        if delay is None:
            intervene(job, self, "skipped", detail=detail)
            return
        intervene(job, self, "released", delay=delay, detail=detail)
        job.release(delay, count_attempt=counts)

    def __repr__(self) -> str:
        options = {
            "release_after": (self._release_after, 0),
            "expire_after": (self._expire_after and self._expire_after.total_seconds(), None),
            "shared": (self._is_shared, False),
            "prefix": (self._prefix, PREFIX),
            "count_attempt": (self._count_attempt, None),
        }
        given = [repr(self.by)] if self.by != "" else []
        given += [f"{name}={value!r}" for name, (value, default) in options.items() if value != default]
        return f"WithoutOverlapping({', '.join(given)})"
