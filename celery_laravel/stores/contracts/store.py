"""Everything in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import timedelta

    from celery_laravel.stores.contracts.attempts import AttemptStore
    from celery_laravel.stores.contracts.batches import BatchStore
    from celery_laravel.stores.contracts.debounces import DebounceStore
    from celery_laravel.stores.contracts.delays import DelayStore
    from celery_laravel.stores.contracts.failed_jobs import FailedJobStore
    from celery_laravel.stores.contracts.limits import LimitStore
    from celery_laravel.stores.contracts.locks import LockStore
    from celery_laravel.stores.records import AttemptEnd, BatchChange, MemberEnd, StoreCondition


class Store(Protocol):
    """One place where everything is kept, and the steps that join capabilities in one call."""

    @property
    def url(self) -> str:
        """Where the store is, without its password."""

    @property
    def attempts(self) -> AttemptStore:
        """The attempts of jobs."""

    @property
    def batches(self) -> BatchStore:
        """Batches and their members."""

    @property
    def failed_jobs(self) -> FailedJobStore:
        """Jobs that failed for good."""

    @property
    def locks(self) -> LockStore:
        """Locks and semaphores."""

    @property
    def limits(self) -> LimitStore:
        """Starts within windows of time."""

    @property
    def debounces(self) -> DebounceStore:
        """Which dispatch is the newest."""

    @property
    def delays(self) -> DelayStore:
        """Messages that wait until they are due."""

    def settle(self, *, member: MemberEnd | None, attempt: AttemptEnd | None, keep: timedelta) -> BatchChange | None:
        """Count a batch's member and end a turn, in one round trip and in that order.

        The order matters: were the turn ended first and the worker to die in
        between, the copy of the message that comes again would be dropped and
        the member never counted. Each part is atomic and may be repeated.
        """

    def condition(self) -> StoreCondition:
        """How the store is doing, for people who look for the cause of trouble."""

    def ping(self) -> None:
        """Return when the store answers."""

    def close(self) -> None:
        """Give back connections. The store may be used again; it connects anew."""
