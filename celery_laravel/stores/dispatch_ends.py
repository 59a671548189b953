"""The end of a batch's dispatch, written down step by step: the same whoever does it, and however often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_laravel.errors import BatchFinishedError, BatchNotFoundError
from celery_laravel.stores.records import MemberEnd, MemberState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_laravel.stores.contracts import BatchStore
    from celery_laravel.stores.records import BatchChange, BatchRecord, DispatchEnd


def end_dispatch(batches: BatchStore, end: DispatchEnd) -> list[BatchChange]:
    """Count out what was not sent, cancel the batch and close it, as far as ``end`` asks for it.

    Returns what that changed, the closing last; nothing where the batch is not
    known. Of a batch that was closed before, ``unsent`` members alone are still
    counted out. Interrupted, it may be done again; one step alone, the adding of
    a member that never runs to a batch that stays open, may then be repeated.

    Raises:
        StoreUnavailableError: The store did not answer; part of it may have been done.
    """
    changes: list[BatchChange | None] = []
    if end.is_incomplete or end.cancels:
        record = batches.find(end.batch_id)
        if record is None:
            return []
        is_over = end.closes and not record.is_open
        if end.is_incomplete:
            changes += _count_out(batches, record, _missing(batches, record, end, is_over=is_over))
        if end.cancels and (end.unsent or not is_over):
            batches.cancel(end.batch_id)
    if end.closes:
        try:
            changes.append(batches.close(end.batch_id))
        except BatchNotFoundError:
            return []
    return [change for change in changes if change is not None]


def _missing(batches: BatchStore, record: BatchRecord, end: DispatchEnd, *, is_over: bool) -> list[int]:
    """The members that never run: those that were not sent, those of a lost `add`, or one that is added for it."""
    missing = [index for first, last in end.unsent for index in range(first, min(last + 1, record.total_jobs))]
    if is_over:
        return missing
    if end.lost is not None:
        first, count = end.lost
        if record.total_jobs == first + count:  # it was made; of another size, others have added them
            missing += range(first, first + count)
    try:
        return missing or [batches.add(record.id, 1)]
    except (BatchFinishedError, BatchNotFoundError):
        return []


def _count_out(batches: BatchStore, record: BatchRecord, missing: list[int]) -> Iterator[BatchChange | None]:
    while missing:
        change = batches.end_member(MemberEnd(record.id, missing[0], "", MemberState.SKIPPED, tuple(missing[1:])))
        yield change
        if change is None or change.changed:
            return
        ended = batches.ended(record.id, missing)  # by a message that went out all the same, or by this, done before
        missing = [index for index in missing if index not in ended]
