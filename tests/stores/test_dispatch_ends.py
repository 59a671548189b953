"""The end of a dispatch is written down the same on every store, wherever it breaks off on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.contracts import Store
from celery_laravel.stores.dispatch_ends import end_dispatch
from celery_laravel.stores.records import BatchRecord, DispatchEnd, MemberEnd, MemberState, NewBatch
from celery_laravel.testing.faults import FaultyStore
from tests.stores.conftest import BackEnd

BROKEN = DispatchEnd("batch", closes=True, cancels=True, is_incomplete=True)
CALLBACKS = {"then": [{"task": "then"}], "finally": [{"task": "finally"}]}


@pytest.fixture
def store(back_end: BackEnd, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store with an open batch of twenty members, the first ten of which have succeeded."""
    with back_end.open(request) as store:
        store.batches.create(NewBatch("batch", callbacks=CALLBACKS))
        store.batches.add("batch", 20)
        store.batches.end_members("batch", range(10))
        yield store


def look(store: Store) -> BatchRecord:
    record = store.batches.find("batch")
    assert record is not None
    return record


def counts(record: BatchRecord) -> tuple[int, int, int, bool, bool]:
    return record.total_jobs, record.pending_jobs, record.skipped_jobs, record.cancelled_at is not None, record.is_open


def end(store: Store, asked: DispatchEnd) -> list[str]:
    """End a dispatch; return the callbacks that became due."""
    return [callback.kind for change in end_dispatch(store.batches, asked) for callback in change.due]


def test_a_batch_that_was_sent_is_closed(store: Store) -> None:
    assert end(store, DispatchEnd("batch", closes=True)) == []
    assert counts(look(store)) == (20, 10, 0, False, False)


@pytest.mark.parametrize(
    ("asked", "after"),
    [
        (replace(BROKEN, unsent=((10, 14), (16, 19))), (20, 1, 9, True, False)),
        (replace(BROKEN, unsent=((18, 25),)), (20, 8, 2, True, False)),
        (replace(BROKEN, lost=(15, 5)), (20, 5, 5, True, False)),  # it was made
        (replace(BROKEN, lost=(20, 5)), (21, 10, 1, True, False)),  # it was not
        (replace(BROKEN, lost=(14, 5)), (21, 10, 1, True, False)),  # others have added members
        (BROKEN, (21, 10, 1, True, False)),
        (replace(BROKEN, closes=False, unsent=((10, 10),)), (20, 9, 1, True, True)),
        (DispatchEnd("batch", cancels=True), (20, 10, 0, True, True)),
    ],
    ids=str,
)
def test_a_dispatch_that_broke_off_is_ended_once(store: Store, asked: DispatchEnd, after: Any) -> None:
    for _ in range(2):
        assert end(store, asked) == []
        assert counts(look(store)) == after


def test_the_last_of_it_calls_what_is_due(store: Store) -> None:
    assert end(store, replace(BROKEN, unsent=((10, 19),))) == ["finally"]
    assert look(store).finished_at is not None
    assert end(store, replace(BROKEN, unsent=((0, 19),))) == []


def test_of_a_batch_that_was_closed_members_may_be_counted_out_still(store: Store) -> None:
    store.batches.close("batch")
    for asked in (BROKEN, replace(BROKEN, lost=(15, 5))):
        assert end(store, asked) == []
        assert counts(look(store)) == (20, 10, 0, False, False)
    assert end(store, replace(BROKEN, unsent=((10, 19),))) == ["finally"]
    assert counts(look(store)) == (20, 0, 10, True, False)


def test_members_that_have_ended_all_the_same_keep_no_others_from_being_counted_out(store: Store) -> None:
    for index in (10, 11, 13):
        store.batches.end_member(MemberEnd("batch", index, "sent", MemberState.SUCCEEDED))
    end(store, replace(BROKEN, unsent=((10, 19),)))
    assert counts(look(store)) == (20, 0, 7, True, False)


@pytest.mark.parametrize("step", ["find", "end_member", "cancel", "close"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_was_interrupted_is_done_when_it_is_done_again(store: Store, step: str, moment: str) -> None:
    def break_off(point: str) -> None:
        if point == f"batches.{step}:{moment}":
            raise StoreUnavailableError("somewhere")

    asked = replace(BROKEN, unsent=((10, 12),), lost=(15, 5))
    with pytest.raises(StoreUnavailableError):
        end(FaultyStore(store, break_off), asked)
    end(store, asked)
    assert counts(look(store)) == (20, 2, 8, True, False)


def test_a_batch_that_is_gone_has_no_dispatch_to_be_ended(store: Store) -> None:
    store.batches.delete("batch")
    assert end_dispatch(store.batches, BROKEN) == []
    assert end_dispatch(store.batches, DispatchEnd("batch", closes=True)) == []
