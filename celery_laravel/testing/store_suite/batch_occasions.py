# ruff: noqa: D102  the name of a test is its sentence
"""Callbacks of a `BatchStore` that come before the first member, with each member, or when a chain is to go on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel.stores.records import Mark, NewBatch
from celery_laravel.testing.store_suite.batch_help import (
    CATCH,
    EVERY_KIND,
    FINALLY,
    NEXT,
    THEN,
    due,
    fail,
    found,
    make,
    skip,
    succeed,
    waiting,
)

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance

BEFORE = Mark("before", 0)
SUCCESS_OF_0, SUCCESS_OF_1 = ([Mark("progress", position, index) for position in (0, 1)] for index in (0, 1))


class BatchOccasionSuite:
    """Each occasion makes its callbacks due once, and each of them is remembered by itself."""

    def test_before_is_due_when_the_batch_is_there_and_not_again(self, store: Store) -> None:
        new = NewBatch("batch", callbacks=EVERY_KIND)
        store.batches.create(new)
        ((record, callback),) = store.batches.due(older_than=timedelta())
        assert (record, callback.mark, callback.signature) == (found(store), BEFORE, EVERY_KIND["before"][0])
        store.batches.mark_sent("batch", [BEFORE])
        store.batches.create(new)
        assert waiting(store) == []

    def test_each_success_makes_progress_due_once(self, store: Store) -> None:
        make(store, 3, callbacks=EVERY_KIND, is_open=True)
        assert due(succeed(store, 1)) == SUCCESS_OF_1
        assert due(succeed(store, 1)) == []
        change = succeed(store, 0)
        assert due(change) == SUCCESS_OF_0
        assert change.due[1].signature == EVERY_KIND["progress"][1]
        assert due(skip(store, 2)) == []
        assert waiting(store) == [BEFORE, SUCCESS_OF_0[0], SUCCESS_OF_1[0], SUCCESS_OF_0[1], SUCCESS_OF_1[1]]

    def test_progress_is_due_before_what_the_last_success_fires(self, store: Store) -> None:
        make(store, 1, callbacks=EVERY_KIND)
        assert due(succeed(store, 0)) == SUCCESS_OF_0 + THEN + NEXT + FINALLY

    def test_a_failure_makes_no_progress(self, store: Store) -> None:
        make(store, 1, callbacks=EVERY_KIND)
        assert due(fail(store, 0)) == CATCH + FINALLY

    def test_a_failed_member_that_succeeds_when_tried_again_makes_progress(self, store: Store) -> None:
        make(store, 2, callbacks=EVERY_KIND, allows_failures=True)
        fail(store, 0)
        store.batches.revive("batch", 0, job_id="job-0")
        assert due(succeed(store, 0)) == SUCCESS_OF_0

    def test_each_failure_that_is_allowed_is_told_with_its_exception(self, store: Store) -> None:
        make(store, 3, callbacks=EVERY_KIND, allows_failures=True, is_open=True)
        first, second = fail(store, 2, exception={"n": 1}), fail(store, 0, exception={"n": 2})
        assert (due(first), due(second)) == ([Mark("failure", 0, 1), *CATCH], [Mark("failure", 0, 2)])
        assert [change.due[0].exception for change in (first, second)] == [{"n": 1}, {"n": 2}]
        assert due(fail(store, 0)) == []
        kept = {callback.mark: callback for _, callback in store.batches.due(older_than=timedelta())}
        assert [kept[Mark("failure", 0, number)].exception for number in (1, 2)] == [{"n": 1}, {"n": 2}]

    def test_a_member_that_fails_again_is_another_failure(self, store: Store) -> None:
        make(store, 1, callbacks=EVERY_KIND, allows_failures=True)
        fail(store, 0)
        store.batches.revive("batch", 0, job_id="job-0")
        assert due(fail(store, 0)) == [Mark("failure", 0, 2)]

    def test_a_failure_that_is_not_allowed_is_caught_and_no_more(self, store: Store) -> None:
        make(store, 2, callbacks=EVERY_KIND)
        assert due(fail(store, 0)) == CATCH
        assert due(fail(store, 1)) == FINALLY

    def test_occasions_are_marked_one_by_one(self, store: Store) -> None:
        make(store, 3, callbacks=EVERY_KIND, allows_failures=True, is_open=True)
        succeed(store, 0)
        succeed(store, 1)
        fail(store, 2, exception={"n": 1})
        store.batches.mark_sent("batch", [BEFORE, SUCCESS_OF_0[0], *SUCCESS_OF_1, *CATCH])
        store.batches.mark_sent("batch", [SUCCESS_OF_0[0], Mark("progress", 0, 2), Mark("failure", 0, 2)])
        assert waiting(store) == [Mark("failure", 0, 1), SUCCESS_OF_0[1]]
        store.batches.mark_sent("batch", [Mark("failure", 0, 1), SUCCESS_OF_0[1]])
        assert waiting(store) == []

    def test_next_comes_when_a_batch_without_failures_finishes(self, store: Store) -> None:
        make(store, 2, callbacks=EVERY_KIND)
        succeed(store, 0)
        assert due(skip(store, 1)) == NEXT + FINALLY

    def test_next_comes_when_an_empty_batch_is_closed(self, store: Store) -> None:
        make(store, is_open=True, callbacks=EVERY_KIND)
        assert due(store.batches.close("batch")) == THEN + NEXT + FINALLY

    def test_next_comes_after_failures_that_are_allowed_and_not_again(self, store: Store) -> None:
        make(store, 1, callbacks=EVERY_KIND, allows_failures=True)
        assert due(fail(store, 0))[1:] == CATCH + NEXT + FINALLY
        store.batches.revive("batch", 0, job_id="job-0")
        assert due(succeed(store, 0)) == SUCCESS_OF_0 + THEN

    def test_next_comes_after_a_failure_only_once_it_is_mended(self, store: Store) -> None:
        make(store, 2, callbacks=EVERY_KIND)
        assert due(fail(store, 0, skips=(1,))) == CATCH + FINALLY
        store.batches.revive("batch", 0, job_id="job-0", skips=(1,))
        assert due(fail(store, 0, skips=(1,))) == []
        store.batches.revive("batch", 0, job_id="job-0", skips=(1,))
        assert due(succeed(store, 0)) == SUCCESS_OF_0
        assert due(succeed(store, 1)) == SUCCESS_OF_1 + THEN + NEXT

    def test_next_comes_for_a_batch_that_was_cancelled(self, store: Store) -> None:
        make(store, 1, callbacks=EVERY_KIND)
        store.batches.cancel("batch")
        assert due(skip(store, 0)) == NEXT + FINALLY

    def test_a_batch_that_is_removed_owes_nothing(self, store: Store) -> None:
        make(store, 2, callbacks=EVERY_KIND, allows_failures=True)
        succeed(store, 0)
        fail(store, 1)
        store.batches.delete("batch")
        assert waiting(store) == []
        make(store, 1, is_open=True)
        assert waiting(store) == []

    def test_occasions_wait_until_they_have_been_due_for_long_enough(self, store: Store, advance: Advance) -> None:
        make(store, 1, callbacks=EVERY_KIND, is_open=True)
        succeed(store, 0)
        advance(advance.short)
        overdue = [callback.mark for _, callback in store.batches.due(older_than=advance.short)]
        assert overdue == [BEFORE, *SUCCESS_OF_0]
        assert store.batches.due(older_than=advance.long) == []
