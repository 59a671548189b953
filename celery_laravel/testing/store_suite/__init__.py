"""The tests that every store back end has to pass; a back end is done when it does.

Give a class the fixtures ``store``, a fresh and empty `Store`, and
``advance``, which lets time pass: `VirtualTime` for a back end that takes the
time from `celery_laravel.clock`, `ServerTime` for one that goes by a server's.

    class TestMyStore(StoreSuite):
        @pytest.fixture
        def store(self) -> Iterator[Store]:
            store = MyStore("my://localhost", prefix=f"test-{uuid4().hex}")
            yield store
            store.close()

        @pytest.fixture
        def advance(self) -> Advance:
            return ServerTime()

The tests that try random sequences of calls need ``hypothesis``. For readable
failures, let pytest rewrite the assertions before this package is imported:
``pytest.register_assert_rewrite("celery_laravel.testing.store_suite")``.
"""

from __future__ import annotations

from celery_laravel.testing.store_suite.attempt_leases import AttemptLeaseSuite
from celery_laravel.testing.store_suite.attempt_locks import AttemptLockSuite
from celery_laravel.testing.store_suite.attempts import AttemptEndSuite, AttemptStartSuite
from celery_laravel.testing.store_suite.batch_callbacks import BatchCallbackSuite
from celery_laravel.testing.store_suite.batch_many import BatchManySuite
from celery_laravel.testing.store_suite.batch_members import BatchMemberSuite
from celery_laravel.testing.store_suite.batch_occasions import BatchOccasionSuite
from celery_laravel.testing.store_suite.batches import BatchSuite
from celery_laravel.testing.store_suite.concurrency import ConcurrencySuite
from celery_laravel.testing.store_suite.contention import ContentionSuite
from celery_laravel.testing.store_suite.debounces import DebounceSuite
from celery_laravel.testing.store_suite.delays import DelaySuite
from celery_laravel.testing.store_suite.failed_job_claims import FailedJobClaimSuite
from celery_laravel.testing.store_suite.failed_jobs import FailedJobSuite
from celery_laravel.testing.store_suite.limit_changes import LimitChangeSuite
from celery_laravel.testing.store_suite.limit_lateness import LatenessSuite, UnclaimedSuite
from celery_laravel.testing.store_suite.limit_newcomers import NewcomersSuite
from celery_laravel.testing.store_suite.limits import LimitSuite, SeveralWindowsSuite
from celery_laravel.testing.store_suite.lock_leases import LockLeaseSuite
from celery_laravel.testing.store_suite.lock_release import LockReleaseSuite
from celery_laravel.testing.store_suite.locks import LockSuite
from celery_laravel.testing.store_suite.models import ModelSuite
from celery_laravel.testing.store_suite.set_aside import SetAsideSuite
from celery_laravel.testing.store_suite.settle import SettleSuite
from celery_laravel.testing.store_suite.times import Advance, ServerTime, VirtualTime


class StoreSuite(
    AttemptStartSuite,
    AttemptEndSuite,
    AttemptLeaseSuite,
    AttemptLockSuite,
    BatchSuite,
    BatchMemberSuite,
    BatchManySuite,
    BatchCallbackSuite,
    BatchOccasionSuite,
    FailedJobSuite,
    FailedJobClaimSuite,
    LockSuite,
    LockReleaseSuite,
    LockLeaseSuite,
    SetAsideSuite,
    LimitSuite,
    SeveralWindowsSuite,
    LimitChangeSuite,
    UnclaimedSuite,
    LatenessSuite,
    NewcomersSuite,
    DebounceSuite,
    DelaySuite,
    SettleSuite,
    ConcurrencySuite,
    ContentionSuite,
    ModelSuite,
):
    """Every test of every capability."""


__all__ = [
    "Advance",
    "AttemptEndSuite",
    "AttemptLeaseSuite",
    "AttemptLockSuite",
    "AttemptStartSuite",
    "BatchCallbackSuite",
    "BatchManySuite",
    "BatchMemberSuite",
    "BatchOccasionSuite",
    "BatchSuite",
    "ConcurrencySuite",
    "ContentionSuite",
    "DebounceSuite",
    "DelaySuite",
    "FailedJobClaimSuite",
    "FailedJobSuite",
    "LatenessSuite",
    "LimitChangeSuite",
    "LimitSuite",
    "LockLeaseSuite",
    "LockReleaseSuite",
    "LockSuite",
    "ModelSuite",
    "NewcomersSuite",
    "ServerTime",
    "SetAsideSuite",
    "SettleSuite",
    "SeveralWindowsSuite",
    "StoreSuite",
    "VirtualTime",
]
