"""What the stores give back: plain values, the same whatever the back end."""

from celery_laravel.stores.records.attempts import AttemptEnd, AttemptStart, StartStatus
from celery_laravel.stores.records.batches import (
    FAILED_IDS_NAMED,
    JSON,
    BatchChange,
    BatchRecord,
    Callback,
    DispatchEnd,
    Mark,
    MemberEnd,
    MemberState,
    NewBatch,
)
from celery_laravel.stores.records.condition import Persistence, StoreCondition
from celery_laravel.stores.records.debounces import Place
from celery_laravel.stores.records.delays import DelayRecord, NewDelay, refuse_targets
from celery_laravel.stores.records.failed_jobs import FailedJob
from celery_laravel.stores.records.limits import LimitAnswer, Slot, Window, WindowState, limits_by_key
from celery_laravel.stores.records.locks import LockAnswer, LockRecord, LockRequest

__all__ = [
    "FAILED_IDS_NAMED",
    "JSON",
    "AttemptEnd",
    "AttemptStart",
    "BatchChange",
    "BatchRecord",
    "Callback",
    "DelayRecord",
    "DispatchEnd",
    "FailedJob",
    "LimitAnswer",
    "LockAnswer",
    "LockRecord",
    "LockRequest",
    "Mark",
    "MemberEnd",
    "MemberState",
    "NewBatch",
    "NewDelay",
    "Persistence",
    "Place",
    "Slot",
    "StartStatus",
    "StoreCondition",
    "Window",
    "WindowState",
    "limits_by_key",
    "refuse_targets",
]
