"""What the library keeps for one Celery app: settings, stores, and the parts that are built from them."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from celery_laravel.dispatch.batch import Batch
from celery_laravel.dispatch.connections import forget_connections
from celery_laravel.settings import Settings, forget_settings, settings_of
from celery_laravel.stores.factory import failed_jobs_of, forget_stores, store_of
from celery_laravel.worker.batch import BatchCallbacks
from celery_laravel.worker.chains import ChainCatches
from celery_laravel.worker.debts import Debts
from celery_laravel.worker.defaults import AttemptDefaults, defaults_of, forget_defaults
from celery_laravel.worker.executor import Executor
from celery_laravel.worker.packs import PackRunner
from celery_laravel.worker.runs import Runs
from celery_laravel.worker.settlement import Settlement

if TYPE_CHECKING:
    from celery import Celery

    from celery_laravel.stores.contracts import FailedJobStore, Store

DEFAULT_VISIBILITY = 3600
"""Seconds after which kombu's transports deliver an unacknowledged message again, unless the app says otherwise."""

_MARGIN = 600
"""Seconds for which, beyond that, a broker may be away before it delivers a copy of a job that has ended."""


class Runtime:
    """Everything of one app. The parts are built when they are first needed, and connect when they are first used."""

    def __init__(self, app: Celery) -> None:
        self._app = ref(app)

    @property
    def app(self) -> Celery:
        """The app this belongs to."""
        app = self._app()
        if app is None:
            raise RuntimeError("The Celery app of this runtime no longer exists.")
        return app

    @property
    def settings(self) -> Settings:
        """The app's ``laravel_*`` settings."""
        return settings_of(self.app)

    @property
    def store(self) -> Store:
        """Where attempts and batches are kept."""
        return store_of(self.app)

    @property
    def failed_jobs(self) -> FailedJobStore:
        """Where failed jobs are kept."""
        return failed_jobs_of(self.app)

    @property
    def defaults(self) -> AttemptDefaults:
        """What holds for jobs that declare nothing."""
        return defaults_of(self.app)

    @cached_property
    def executor(self) -> Executor:
        """Runs attempts."""
        return Executor(self.defaults, lambda: self.store)

    @cached_property
    def callbacks(self) -> BatchCallbacks:
        """Sends the callbacks of batches."""
        return BatchCallbacks(self.app, lambda: self.store, lambda record: Batch(record, self.app))

    @cached_property
    def settlement(self) -> Settlement:
        """Settles attempts."""
        return Settlement(lambda: self.store, self.debts, self.chains)

    @cached_property
    def chains(self) -> ChainCatches:
        """Has chains catch their failures."""
        return ChainCatches(self.app, lambda: self.store)

    @cached_property
    def debts(self) -> Debts:
        """Writes down what must not be lost of jobs that have ended."""
        stores = (lambda: self.store, lambda: self.failed_jobs)
        return Debts(self.app, stores, self.callbacks, self.chains, keep_ended=self._keep_ended)

    @cached_property
    def packs(self) -> PackRunner:
        """Runs packs."""
        return PackRunner(self.app, lambda: self.store, self.callbacks, self.debts)

    @cached_property
    def runs(self) -> Runs:
        """Runs attempts in every way in which they come to run."""
        return Runs(self.executor, self.settlement, keep_ended=self._keep_ended)

    @property
    def _keep_ended(self) -> timedelta:
        """How long it is remembered that a job has ended, so that a copy of its message is dropped."""
        options = self.app.conf.broker_transport_options or {}
        return timedelta(seconds=float(options.get("visibility_timeout", DEFAULT_VISIBILITY)) + _MARGIN)

    def forget(self) -> None:
        """Build everything anew from the app's present configuration when it is next needed."""
        forget_defaults(self.app)
        for name in ("executor", "callbacks", "settlement", "chains", "debts", "packs", "runs"):
            self.__dict__.pop(name, None)
        forget_connections(self.app)
        forget_stores(self.app)
        forget_settings(self.app)


_runtimes: WeakKeyDictionary[Celery, Runtime] = WeakKeyDictionary()


def runtime_of(app: Celery) -> Runtime:
    """The app's runtime, made the first time it is asked for."""
    runtime = _runtimes.get(app)
    return _runtimes.setdefault(app, Runtime(app)) if runtime is None else runtime
