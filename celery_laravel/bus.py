"""``Bus``: the one name through which batches, failed and delayed jobs, and locks are reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import current_app

from celery_laravel import clock
from celery_laravel.dispatch.batch import Batch
from celery_laravel.dispatch.closures import PendingClosure
from celery_laravel.dispatch.pending_batch import PendingBatch
from celery_laravel.dispatch.pending_chain import PendingChain
from celery_laravel.operations.delayed import DelayedJobs
from celery_laravel.operations.failed_jobs import FailedJobs
from celery_laravel.operations.locks import Locks
from celery_laravel.runtime import runtime_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery


class _OfTheApp:
    """Make a method of `Bus` callable on the class, where it speaks of Celery's current app."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Bus | None, owner: type[Bus]) -> Any:
        bus = owner() if instance is None else instance
        return self._function.__get__(bus, owner)


class _PropertyOfTheApp(_OfTheApp):
    def __get__(self, instance: Bus | None, owner: type[Bus]) -> Any:
        return self._function(owner() if instance is None else instance)


class Bus:
    """Batches, failed and delayed jobs, and locks of an app: Celery's current one, or ``Bus(app)`` of another.

    batch = Bus.batch([resize.s(image) for image in images]).then(publish.si()).dispatch()
    """

    def __init__(self, app: Celery | None = None) -> None:
        self._app = app

    @property
    def app(self) -> Celery:
        """The app this bus speaks of."""
        return self._app if self._app is not None else current_app._get_current_object()  # noqa: SLF001  Celery's own way

    @_OfTheApp
    def batch(self, jobs: Any) -> PendingBatch:
        """Start building a batch of any iterable of signatures; a list among them is a chain."""
        return PendingBatch(self.app, jobs, runtime_of(self.app).callbacks.after)

    @_OfTheApp
    def chain(self, steps: Any) -> PendingChain:
        """Start building a chain of signatures that run one after the other.

        Raises:
            TypeError: A step is no signature, or there is none.
        """
        return PendingChain(self.app, steps)

    @_OfTheApp
    def closure(self, function: Callable[..., Any]) -> PendingClosure:
        """Start building a job of a plain function; needs the setting ``laravel_secret_key``.

        Raises:
            TypeError: It is no function, or one that cannot travel.
            ConfigurationError: There is no key, or the extra ``closures`` is not installed.
        """
        return PendingClosure(self.app, function)

    @_OfTheApp
    def find_batch(self, batch_id: str) -> Batch | None:
        """The batch of that id as it stands, or None. One call of the store, whatever its size."""
        record = runtime_of(self.app).store.batches.find(batch_id)
        return None if record is None else Batch(record, self.app)

    @_OfTheApp
    def batches(self, limit: int = 50, before: str | None = None) -> list[Batch]:
        """Batches, newest first; with ``before`` (a batch's id), only older ones."""
        return [
            Batch(record, self.app) for record in runtime_of(self.app).store.batches.all(limit=limit, before=before)
        ]

    @_OfTheApp
    def prune_batches(self, hours: float = 24, unfinished: float | None = None, cancelled: float | None = None) -> int:
        """Remove batches that finished more than so many hours ago; return how many.

        With ``unfinished`` those go too that were created so many hours ago and
        have not finished, with ``cancelled`` those that were created so many
        hours ago and have been cancelled. Jobs of a removed batch that are still
        queued run, and are not counted.
        """
        return runtime_of(self.app).store.batches.prune(
            finished_before=clock.hours_ago(hours),
            created_before=None if unfinished is None else clock.hours_ago(unfinished),
            cancelled_before=None if cancelled is None else clock.hours_ago(cancelled),
        )

    @_PropertyOfTheApp
    def failed(self) -> FailedJobs:
        """The failed jobs."""
        return FailedJobs(self.app)

    @_PropertyOfTheApp
    def delayed(self) -> DelayedJobs:
        """The jobs that wait until they are due, in the store or in a database broker."""
        return DelayedJobs(self.app)

    @_PropertyOfTheApp
    def locks(self) -> Locks:
        """The locks that jobs hold."""
        return Locks(self.app)
