"""The end of a batch's dispatch, written down step by step: the same whoever does it, and however often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_laravel.errors import BatchFinishedError, BatchNotFoundError
from celery_laravel.stores.records import MemberEnd, MemberState

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import BatchStore
    from celery_laravel.stores.records import BatchChange, BatchRecord, DispatchEnd


def end_dispatch(batches: BatchStore, end: DispatchEnd) -> BatchChange | None:
    """Count out what was not sent, cancel the batch and close it, as far as ``end`` asks for it.

    Returns what closing changed; None where it is not to be closed, or the batch
    is not known. A dispatch that has ended before is left alone. Interrupted, it
    may be done again; one step alone, the adding of a member that never runs to
    a batch that stays open, may then be repeated.

    Raises:
        StoreUnavailableError: The store did not answer; part of it may have been done.
    """
    if end.is_incomplete or end.cancels:
        record = batches.find(end.batch_id)
        if record is None:
            return None
        if record.is_open or not end.closes:
            if end.is_incomplete:
                _count_out(batches, record, end)
            if end.cancels:
                batches.cancel(end.batch_id)
    if not end.closes:
        return None
    try:
        return batches.close(end.batch_id)
    except BatchNotFoundError:
        return None


def _count_out(batches: BatchStore, record: BatchRecord, end: DispatchEnd) -> None:
    """Count members as never to run: those that were not sent, those of a lost `add`, or one that is added for it."""
    missing = [index for first, last in end.unsent for index in range(first, last + 1)]
    if end.lost is not None:
        first, count = end.lost
        if record.total_jobs == first + count:  # it was made; of another size, others have added them
            missing += range(first, first + count)
    missing = [index for index in missing if index < record.total_jobs]
    if not missing:
        try:
            missing = [batches.add(record.id, 1)]
        except (BatchFinishedError, BatchNotFoundError):
            return
    while missing:
        change = batches.end_member(MemberEnd(record.id, missing[0], "", MemberState.SKIPPED, tuple(missing[1:])))
        if change is None or change.changed:
            return
        ended = batches.ended(record.id, missing)  # by a message that went out all the same, or by this, done before
        missing = [index for index in missing if index not in ended]
