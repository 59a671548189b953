# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""When a `BatchStore` makes callbacks due, and how long it remembers them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel.stores.records import Callback, Mark
from celery_laravel.testing.store_suite.batch_help import (
    CALLBACKS,
    CATCH,
    FINALLY,
    THEN,
    counts,
    due,
    fail,
    found,
    make,
    skip,
    succeed,
)

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance

NOW = timedelta()


class BatchCallbackSuite:
    """Each kind of callback is made due by exactly one step of a batch's life."""

    def test_the_last_success_makes_then_and_finally_due(self, store: Store) -> None:
        make(store, 2)
        assert due(succeed(store, 1)) == []
        change = succeed(store, 0)
        assert due(change) == THEN + FINALLY
        assert change.due[0] == Callback("then", 0, CALLBACKS["then"][0])
        assert change.due[1] == Callback("then", 1, CALLBACKS["then"][1])
        assert change.batch.finished_at is not None

    def test_an_open_batch_does_not_finish(self, store: Store) -> None:
        make(store, 1, is_open=True)
        change = succeed(store, 0)
        assert (change.due, change.batch.finished_at) == ((), None)
        assert due(store.batches.close("batch")) == THEN + FINALLY

    def test_closing_a_batch_with_pending_members_makes_nothing_due(self, store: Store) -> None:
        make(store, 1, is_open=True)
        change = store.batches.close("batch")
        assert (change.changed, change.due, change.batch.finished_at) == (True, (), None)

    def test_an_empty_batch_succeeds_when_it_is_closed(self, store: Store) -> None:
        make(store, is_open=True)
        assert due(store.batches.close("batch")) == THEN + FINALLY

    def test_the_first_failure_makes_catch_due_at_once_and_once(self, store: Store) -> None:
        make(store, 3, allows_failures=True)
        assert due(fail(store, 0)) == CATCH
        assert due(fail(store, 1)) == []
        assert due(succeed(store, 2)) == FINALLY

    def test_an_open_batch_catches_too(self, store: Store) -> None:
        make(store, 1, is_open=True)
        assert due(fail(store, 0)) == CATCH
        assert due(store.batches.close("batch")) == FINALLY

    def test_a_last_member_that_fails_first_makes_catch_due_before_finally(self, store: Store) -> None:
        make(store, 1)
        assert due(fail(store, 0)) == CATCH + FINALLY

    def test_a_skipped_member_keeps_then_from_firing(self, store: Store) -> None:
        make(store, 2)
        succeed(store, 0)
        assert due(skip(store, 1)) == FINALLY

    def test_a_cancelled_batch_whose_members_all_succeeded_has_succeeded(self, store: Store) -> None:
        make(store, 1)
        store.batches.cancel("batch")
        assert due(succeed(store, 0)) == THEN + FINALLY

    def test_a_repeated_end_makes_nothing_due(self, store: Store) -> None:
        make(store, 1)
        succeed(store, 0)
        assert due(succeed(store, 0)) == []

    def test_a_batch_without_callbacks_finishes_in_silence(self, store: Store) -> None:
        make(store, 1, callbacks={})
        change = fail(store, 0)
        assert change.due == ()
        assert change.batch.finished_at is not None

    def test_then_fires_when_a_retry_mends_the_last_failure(self, store: Store) -> None:
        make(store, 2, allows_failures=True)
        fail(store, 0, skips=(1,))
        store.batches.revive("batch", 0, job_id="job-0", skips=(1,))
        assert due(succeed(store, 0)) == []
        change = succeed(store, 1)
        assert due(change) == THEN, "finally has fired before"
        assert change.batch.finished_at is not None

    def test_then_does_not_fire_while_another_failure_stands(self, store: Store) -> None:
        make(store, 2, allows_failures=True)
        fail(store, 0)
        fail(store, 1)
        store.batches.revive("batch", 0, job_id="job-0")
        change = succeed(store, 0)
        assert (due(change), counts(change.batch)) == ([], (1, 1, 0, 0))
        assert change.batch.finished_at is not None

    def test_a_revived_member_that_fails_again_is_not_caught_again(self, store: Store) -> None:
        make(store, 1)
        assert due(fail(store, 0)) == CATCH + FINALLY
        store.batches.revive("batch", 0, job_id="job-0")
        assert due(fail(store, 0)) == []

    def test_what_is_due_is_remembered_until_it_is_marked_as_sent(self, store: Store) -> None:
        make(store, 1)
        change = fail(store, 0, exception={"type": "ValueError"})
        waiting = store.batches.due(older_than=NOW)
        assert [callback for _, callback in waiting] == list(change.due)
        assert waiting[0][0] == found(store)
        store.batches.mark_sent("batch", CATCH)
        assert [callback.kind for _, callback in store.batches.due(older_than=NOW)] == ["finally"]
        store.batches.mark_sent("batch", FINALLY + CATCH)
        assert store.batches.due(older_than=NOW) == []

    def test_callbacks_of_one_kind_are_marked_one_by_one(self, store: Store) -> None:
        make(store)
        store.batches.mark_sent("batch", [Mark("then", 1)])
        waiting = {(callback.kind, callback.position) for _, callback in store.batches.due(older_than=NOW)}
        assert waiting == {("then", 0), ("finally", 0)}
        for _, callback in store.batches.due(older_than=NOW):
            assert callback.signature == CALLBACKS[callback.kind][callback.position]

    def test_marking_nothing_or_what_is_not_due_changes_nothing(self, store: Store) -> None:
        make(store, 1)
        store.batches.mark_sent("batch", [])
        store.batches.mark_sent("batch", [Mark("then", 0), Mark("progress", 0, 7)])
        assert due(succeed(store, 0)) == THEN + FINALLY
        assert len(store.batches.due(older_than=NOW)) == 3

    def test_what_was_sent_is_not_made_due_again(self, store: Store) -> None:
        make(store, 1)
        fail(store, 0)
        store.batches.mark_sent("batch", CATCH + FINALLY)
        store.batches.revive("batch", 0, job_id="job-0")
        fail(store, 0)
        assert store.batches.due(older_than=NOW) == []

    def test_only_what_has_been_due_for_long_enough_is_given(self, store: Store, advance: Advance) -> None:
        make(store, batch_id="first")
        advance(advance.short)
        assert {record.id for record, _ in store.batches.due(older_than=advance.short)} == {"first"}
        assert store.batches.due(older_than=advance.long) == []

    def test_what_has_been_due_for_longest_comes_first(self, store: Store, advance: Advance) -> None:
        for batch_id in ("late", "early", "middle"):
            make(store, 1, batch_id=batch_id)
        for batch_id in ("early", "middle", "late"):
            succeed(store, 0, batch_id=batch_id)
            advance(timedelta(milliseconds=2))
        waiting = [(record.id, callback.mark) for record, callback in store.batches.due(older_than=NOW)]
        assert waiting == [(batch, mark) for batch in ("early", "middle", "late") for mark in THEN + FINALLY]
