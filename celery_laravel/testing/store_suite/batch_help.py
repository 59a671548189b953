"""Short forms for what the tests of batches do over and over."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery_laravel.stores.records import (
    FAILED_IDS_NAMED,
    BatchChange,
    BatchRecord,
    Mark,
    MemberEnd,
    MemberState,
    NewBatch,
)

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store

CALLBACKS: dict[str, list[dict[str, Any]]] = {
    "then": [{"task": "then-0", "args": [1]}, {"task": "then-1"}],
    "catch": [{"task": "catch-0"}],
    "finally": [{"task": "finally-0"}],
}
EVERY_KIND: dict[str, list[dict[str, Any]]] = {
    "before": [{"task": "before-0"}],
    "progress": [{"task": "progress-0"}, {"task": "progress-1"}],
    "failure": [{"task": "failure-0"}],
    "next": [{"task": "next-0", "options": {"chain": []}}],
    **CALLBACKS,
}
THEN = [Mark("then", 0), Mark("then", 1)]
CATCH = [Mark("catch", 0)]
NEXT = [Mark("next", 0)]
FINALLY = [Mark("finally", 0)]


def make(
    store: Store, members: int = 0, *, batch_id: str = "batch", is_open: bool = False, **given: Any
) -> BatchRecord:
    """Create a batch with callbacks at its end, add members, and close it unless it is to stay open."""
    batch = NewBatch(batch_id, **({"callbacks": CALLBACKS} | given))
    record = store.batches.create(batch)
    if members:
        store.batches.add(batch_id, members)
    if is_open:
        return record
    return store.batches.close(batch_id).batch


def ending(index: int, state: MemberState, *, batch_id: str = "batch", **given: Any) -> MemberEnd:
    """The end of one member, whose job's id is made from its index."""
    return MemberEnd(batch_id, index, given.pop("job_id", f"job-{index}"), state, **given)


def end(store: Store, index: int, state: MemberState, **given: Any) -> BatchChange:
    """Bring a member of a batch that exists to its end."""
    change = store.batches.end_member(ending(index, state, **given))
    assert change is not None
    check_counts(change.batch)
    return change


def succeed(store: Store, index: int, **given: Any) -> BatchChange:
    """Let a member succeed."""
    return end(store, index, MemberState.SUCCEEDED, **given)


def fail(store: Store, index: int, **given: Any) -> BatchChange:
    """Let a member fail."""
    return end(store, index, MemberState.FAILED, **given)


def skip(store: Store, index: int, **given: Any) -> BatchChange:
    """Count a member out."""
    return end(store, index, MemberState.SKIPPED, **given)


def found(store: Store, batch_id: str = "batch") -> BatchRecord:
    """The record of a batch that exists."""
    record = store.batches.find(batch_id)
    assert record is not None
    check_counts(record)
    assert len(record.failed_job_ids) == min(record.failed_jobs, FAILED_IDS_NAMED)
    return record


def counts(record: BatchRecord) -> tuple[int, int, int, int]:
    """Succeeded, failed, skipped, pending."""
    succeeded = record.total_jobs - record.failed_jobs - record.skipped_jobs - record.pending_jobs
    return succeeded, record.failed_jobs, record.skipped_jobs, record.pending_jobs


def due(change: BatchChange) -> list[Mark]:
    """The callbacks that a step made due, in their order."""
    return [callback.mark for callback in change.due]


def waiting(store: Store, batch_id: str = "batch") -> list[Mark]:
    """The callbacks of a batch that are due, sorted."""
    marks = [callback.mark for record, callback in store.batches.due(older_than=timedelta()) if record.id == batch_id]
    return sorted(marks, key=repr)


def check_counts(record: BatchRecord) -> None:
    """The law that holds in every record."""
    assert min(counts(record)) >= 0
    assert sum(counts(record)) == record.total_jobs
    assert not (record.is_open and record.finished_at)
    assert not (record.pending_jobs and record.finished_at)
