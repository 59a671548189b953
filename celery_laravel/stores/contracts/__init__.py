"""What a store can do, by capability; each method is one atomic step that returns what it changed.

Every method may raise `StoreUnavailableError` when the store does not answer;
the change may then have been made or not. Durations are `timedelta`, instants
aware `datetime`. A back end is done when it passes ``celery_laravel.testing.store_suite``.
"""

from celery_laravel.stores.contracts.attempts import AttemptStore
from celery_laravel.stores.contracts.batches import BatchStore
from celery_laravel.stores.contracts.debounces import DebounceStore
from celery_laravel.stores.contracts.delays import DelayStore
from celery_laravel.stores.contracts.failed_jobs import FailedJobStore
from celery_laravel.stores.contracts.limits import LimitStore
from celery_laravel.stores.contracts.locks import LockStore
from celery_laravel.stores.contracts.store import Store

__all__ = [
    "AttemptStore",
    "BatchStore",
    "DebounceStore",
    "DelayStore",
    "FailedJobStore",
    "LimitStore",
    "LockStore",
    "Store",
]
