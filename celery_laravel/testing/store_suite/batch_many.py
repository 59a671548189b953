# ruff: noqa: D102  the name of a test is its sentence
"""What a `BatchStore` has to do with many members at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from celery_laravel.stores.records import Mark
from celery_laravel.testing.store_suite.batch_help import (
    CALLBACKS,
    FINALLY,
    THEN,
    check_counts,
    counts,
    due,
    fail,
    found,
    make,
    skip,
    succeed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import BatchChange


class BatchManySuite:
    """Members that succeeded are counted together, each once; which have ended can be asked."""

    def test_members_that_succeeded_are_counted_together(self, store: Store) -> None:
        make(store, 6)
        change = _succeed(store, [0, 4, 2])
        assert (change.changed, change.due, counts(change.batch)) == (True, (), (3, 0, 0, 3))
        assert change.batch == found(store)

    def test_the_last_ones_finish_the_batch(self, store: Store) -> None:
        make(store, 3)
        succeed(store, 1)
        change = _succeed(store, [0, 2])
        assert due(change) == THEN + FINALLY
        assert change.batch.finished_at is not None
        assert change.batch == found(store)

    def test_each_makes_its_own_callbacks_due(self, store: Store) -> None:
        make(store, 4, callbacks={**CALLBACKS, "progress": [{"task": "progress-0"}]})
        succeed(store, 1)
        change = _succeed(store, [3, 1, 0, 9])
        assert due(change) == [Mark("progress", 0, 0), Mark("progress", 0, 3)]
        assert due(_succeed(store, [0, 2])) == [Mark("progress", 0, 2), *THEN, *FINALLY]
        assert counts(found(store)) == (4, 0, 0, 0)

    def test_they_are_counted_once(self, store: Store) -> None:
        make(store, 5)
        _succeed(store, [0, 1])
        assert counts(_succeed(store, [1, 2, 2]).batch) == (3, 0, 0, 2)
        again = _succeed(store, [0, 1, 2])
        assert (again.changed, again.due, counts(again.batch)) == (False, (), (3, 0, 0, 2))

    def test_whatever_ended_otherwise_stays_as_it_is(self, store: Store) -> None:
        make(store, 4, allows_failures=True)
        fail(store, 0)
        skip(store, 1)
        change = _succeed(store, [0, 1, 2, 3, 4, 99, -1])
        assert counts(change.batch) == (2, 1, 1, 0)
        assert due(change) == FINALLY
        assert set(found(store).failed_job_ids) == {"job-0"}

    def test_no_members_are_no_change(self, store: Store) -> None:
        make(store, 2)
        assert not _succeed(store, []).changed
        assert not _succeed(store, [7]).changed

    def test_thousands_are_counted_in_one_step(self, store: Store) -> None:
        make(store, 3_000)
        change = _succeed(store, range(0, 3_000, 2))
        assert counts(change.batch) == (1_500, 0, 0, 1_500)
        assert store.batches.ended("batch", range(3_000)) == frozenset(range(0, 3_000, 2))

    def test_those_of_an_open_batch_do_not_finish_it(self, store: Store) -> None:
        make(store, 2, is_open=True)
        assert _succeed(store, [0, 1]).batch.finished_at is None
        assert due(store.batches.close("batch")) == THEN + FINALLY

    def test_of_many_who_count_the_same_members_at_once_one_finishes_the_batch(self, store: Store) -> None:
        make(store, 40)
        with ThreadPoolExecutor(6) as threads:
            changes = list(threads.map(lambda n: _succeed(store, range(n * 4, n * 4 + 20)), range(6)))
        assert sorted(due(change) for change in changes if change.due) == [THEN + FINALLY]
        assert counts(found(store)) == (40, 0, 0, 0)

    def test_members_of_an_unknown_batch_cannot_be_counted(self, store: Store) -> None:
        assert store.batches.end_members("unknown", [0]) is None

    def test_which_members_have_ended_can_be_asked(self, store: Store) -> None:
        make(store, 6, allows_failures=True)
        succeed(store, 4)
        fail(store, 1, skips=(2,))
        assert store.batches.ended("batch", [5, 4, 2, 1, 0, 6, -1]) == {1, 2, 4}
        store.batches.revive("batch", 1, job_id="job-1")
        assert store.batches.ended("batch", range(6)) == {2, 4}

    @pytest.mark.parametrize("indices", [[], [0, 1]])
    def test_of_an_unknown_batch_no_member_has_ended(self, store: Store, indices: list[int]) -> None:
        assert store.batches.ended("unknown", indices) == frozenset()


def _succeed(store: Store, indices: Sequence[int]) -> BatchChange:
    change = store.batches.end_members("batch", indices)
    assert change is not None
    check_counts(change.batch)
    return change
