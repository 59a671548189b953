"""The dispatch of a new batch: it is created, its jobs are sent, it is closed."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_laravel import events
from celery_laravel.dispatch.batch import Batch
from celery_laravel.dispatch.ending import Taken
from celery_laravel.dispatch.members import publish_members
from celery_laravel.errors import BatchDispatchError, BatchNotFoundError, StoreUnavailableError
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import BatchChange, Callback, DispatchEnd

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from celery_laravel.dispatch.members import Dispatch
    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import BatchRecord, NewBatch

    AfterChange = Callable[[BatchChange | None], None]

logger = logging.getLogger(__name__)


def dispatch_batch(  # noqa: PLR0917  the parts of a pending batch
    app: Celery,
    new: NewBatch,
    jobs: Any,
    after_change: AfterChange,
    on_progress: Callable[[int], Any] | None,
    countdown: float | None,
) -> Batch:
    """Create a batch, send its jobs and close it; see `PendingBatch.dispatch`."""
    store = store_of(app)
    record = store.batches.create(new)
    before = [Callback("before", *numbered) for numbered in enumerate(new.callbacks.get("before", ()))]

    def start() -> None:
        _announce(after_change, BatchChange(record, changed=True, due=tuple(before)))

    try:
        dispatch = publish_members(
            app,
            store,
            record,
            jobs,
            on_progress=on_progress,
            on_start=start if before else None,
            countdown=countdown,
            on_end=lambda change: _announce(after_change, change),
        )
        change = None if dispatch.sent else store.batches.close(record.id)
    except BatchDispatchError:
        raise
    except Exception:
        _remove(store, record.id)
        raise
    if change is None:
        change = _close(app, store, record, dispatch)
    batch = Batch(change.batch, app)
    events.send(events.batch_dispatched, app, batch=batch)
    _announce(after_change, change)
    return batch


def _close(app: Celery, store: Store, record: BatchRecord, dispatch: Dispatch) -> BatchChange:
    """Say that all has been sent.

    Raises:
        BatchDispatchError: Neither store nor broker takes note of it.
        BatchNotFoundError: The batch has been deleted meanwhile.
    """
    ending = dispatch.end_surely(app, store, DispatchEnd(record.id, closes=True))
    if ending.taken is Taken.NOBODY:
        raise BatchDispatchError(record.id, dispatch.sent, "unclosed") from ending.error
    if ending.taken is Taken.BROKER:
        sent = replace(record, total_jobs=dispatch.members, pending_jobs=dispatch.members)
        return BatchChange(sent, changed=False)
    if ending.change is None:
        raise BatchNotFoundError(record.id)
    return ending.change


def _announce(after_change: AfterChange, change: BatchChange) -> None:
    """Send callbacks that are due. Where the store is not told that they were sent, workers send them once more."""
    try:
        after_change(change)
    except StoreUnavailableError:
        logger.warning("Batch %s: callbacks that are due stay so, as the store is away", change.batch.id, exc_info=True)


def _remove(store: Store, batch_id: str) -> None:
    """Remove a batch of which nothing was sent; the failure that led to this is the one to be seen."""
    try:
        store.batches.delete(batch_id)
    except StoreUnavailableError as error:
        logger.warning("Batch %s, of which nothing was sent, stays in the store unfinished: %s", batch_id, error)
