# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What a `BatchStore` has to do with a batch as a whole."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel.errors import BatchFinishedError, BatchNotFoundError
from celery_laravel.stores.records import Mark, MemberState, NewBatch
from celery_laravel.testing.store_suite.batch_help import CALLBACKS, counts, ending, fail, found, make, skip, succeed

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import BatchRecord
    from celery_laravel.testing.store_suite.times import Advance

OPTIONS = {"queue": "imports", "nested": {"list": [1, 2.5, None, True], "text": "naïve “quotes” 'and' \\ \n 🚀"}}


class BatchSuite:
    """Creation, growth, closing, cancelling, listing, removal."""

    def test_a_new_batch_is_open_and_empty(self, store: Store) -> None:
        record = store.batches.create(NewBatch("batch", "Import CSV", OPTIONS, CALLBACKS, allows_failures=True))
        assert (record.id, record.name, record.allows_failures, record.is_open) == ("batch", "Import CSV", True, True)
        assert (record.options, record.callbacks) == (OPTIONS, CALLBACKS)
        assert (record.total_jobs, *counts(record), record.failed_job_ids) == (0, 0, 0, 0, 0, ())
        assert (record.cancelled_at, record.finished_at, record.first_exception) == (None, None, None)
        assert store.batches.find("batch") == record

    def test_a_batch_needs_nothing_but_an_id(self, store: Store) -> None:
        record = store.batches.create(NewBatch("batch"))
        assert (record.name, record.options, record.callbacks, record.allows_failures) == ("", {}, {}, False)
        assert store.batches.close("batch").due == ()

    def test_a_batch_is_created_at_this_instant(self, store: Store) -> None:
        created = make(store, is_open=True).created_at
        assert created.tzinfo is not None
        assert abs(created - datetime.now(tz=timezone.utc)) < timedelta(minutes=1)

    def test_creating_an_id_that_exists_changes_nothing(self, store: Store) -> None:
        make(store, 2, name="first")
        succeed(store, 0)
        before = found(store)
        again = store.batches.create(NewBatch("batch", name="second", options={"other": 1}, allows_failures=True))
        assert again == before == found(store)

    def test_what_is_kept_is_not_the_callers_own(self, store: Store) -> None:
        options: dict[str, Any] = {"tags": ["a"]}
        make(store, options=options)
        options["tags"].append("b")
        assert found(store).options == {"tags": ["a"]}

    def test_what_json_cannot_carry_is_refused(self, store: Store) -> None:
        with pytest.raises(TypeError):
            store.batches.create(NewBatch("batch", options={"a set": {1}}))
        assert store.batches.find("batch") is None

    def test_ids_may_be_any_text(self, store: Store) -> None:
        odd = "bätch {1}:* 'x' %s"
        make(store, 2, batch_id=odd)
        assert succeed(store, 0, batch_id=odd).changed
        fail(store, 1, batch_id=odd, job_id=odd)
        assert found(store, odd).failed_job_ids == (odd,)
        assert [record.id for record in store.batches.all()] == [odd]
        assert {record.id for record, _ in store.batches.due(older_than=timedelta())} == {odd}
        assert store.batches.delete(odd)

    def test_members_are_numbered_in_the_order_they_are_added(self, store: Store) -> None:
        make(store, is_open=True)
        assert [store.batches.add("batch", count) for count in (3, 1, 0, 5)] == [0, 3, 4, 4]
        assert (found(store).total_jobs, found(store).pending_jobs) == (9, 9)

    def test_a_batch_grows_after_its_dispatch_is_closed_until_it_finishes(self, store: Store) -> None:
        make(store, 1)
        assert store.batches.add("batch", 1) == 1
        assert succeed(store, 0).batch.finished_at is None
        assert succeed(store, 1).batch.finished_at is not None
        with pytest.raises(BatchFinishedError):
            store.batches.add("batch", 1)
        assert found(store).total_jobs == 2

    def test_a_finished_batch_takes_members_again_once_one_is_revived(self, store: Store) -> None:
        make(store, 1)
        fail(store, 0)
        store.batches.revive("batch", 0, job_id="job-0")
        assert store.batches.add("batch", 1) == 1

    def test_a_cancelled_batch_takes_members_until_it_finishes(self, store: Store) -> None:
        make(store, 1)
        store.batches.cancel("batch")
        assert store.batches.add("batch", 1) == 1
        succeed(store, 0)
        succeed(store, 1)
        with pytest.raises(BatchFinishedError):
            store.batches.add("batch", 1)

    def test_an_empty_batch_finishes_when_it_is_closed(self, store: Store) -> None:
        change = store.batches.create(NewBatch("batch", callbacks=CALLBACKS))
        assert change.finished_at is None
        closed = store.batches.close("batch")
        assert closed.changed
        assert (closed.batch.is_open, closed.batch.finished_at is None) == (False, False)

    def test_closing_twice_changes_nothing(self, store: Store) -> None:
        make(store, 1)
        again = store.batches.close("batch")
        assert (again.changed, again.due, again.batch) == (False, (), found(store))

    def test_cancelling_is_done_once(self, store: Store) -> None:
        make(store, 1)
        change = store.batches.cancel("batch")
        assert change is not None
        assert (change.changed, change.due) == (True, ())
        assert change.batch.cancelled_at is not None
        again = store.batches.cancel("batch")
        assert again is not None
        assert (again.changed, again.batch.cancelled_at) == (False, change.batch.cancelled_at)

    def test_a_cancelled_batch_still_counts_its_members(self, store: Store) -> None:
        make(store, 2)
        store.batches.cancel("batch")
        succeed(store, 0)
        assert counts(skip(store, 1).batch) == (1, 0, 1, 0)
        assert found(store).finished_at is not None

    def test_an_unknown_batch_is_said_to_be_unknown(self, store: Store) -> None:
        batches = store.batches
        for ask in (batches.close, lambda batch_id: batches.add(batch_id, 1)):
            with pytest.raises(BatchNotFoundError, match="nobody"):
                ask("nobody")
        assert batches.find("nobody") is None
        assert batches.cancel("nobody") is None
        assert batches.end_member(ending(0, MemberState.SUCCEEDED, batch_id="nobody")) is None
        assert batches.revive("nobody", 0, job_id="job-0") is None
        assert not batches.delete("nobody")
        batches.mark_sent("nobody", [Mark("then", 0), Mark("progress", 0, 1), Mark("failure", 0, 1)])
        assert batches.find("nobody") is None

    def test_a_deleted_batch_leaves_nothing_behind(self, store: Store) -> None:
        make(store, 2)
        fail(store, 0, exception={"type": "ValueError"})
        succeed(store, 1)
        assert store.batches.delete("batch")
        assert not store.batches.delete("batch")
        assert store.batches.find("batch") is None
        assert store.batches.all() == []
        assert store.batches.due(older_than=timedelta()) == []
        assert store.batches.end_member(ending(1, MemberState.SUCCEEDED)) is None
        fresh = make(store, 2, name="anew")
        assert (fresh.name, counts(fresh), fresh.failed_job_ids, fresh.first_exception) == (
            "anew",
            (0, 0, 0, 2),
            (),
            None,
        )
        assert succeed(store, 1).changed

    def test_batches_are_listed_newest_first_and_page_by_page(self, store: Store, advance: Advance) -> None:
        ids = [f"batch-{number}" for number in (5, 1, 4, 2, 3)]
        for batch_id in ids:
            make(store, batch_id=batch_id, is_open=True)
            advance(timedelta(milliseconds=2))
        newest = ids[::-1]
        assert _ids(store.batches.all()) == newest
        assert _ids(store.batches.all(limit=2)) == newest[:2]
        assert _ids(store.batches.all(limit=2, before=newest[1])) == newest[2:4]
        assert _ids(store.batches.all(before=newest[3])) == newest[4:]
        assert store.batches.all(before=newest[4]) == []
        assert store.batches.all(before="nobody") == []
        assert store.batches.all()[0] == found(store, newest[0])

    def test_pages_of_batches_of_one_instant_neither_repeat_nor_leave_out(self, store: Store) -> None:
        for number in range(7):
            make(store, batch_id=f"batch-{number}", is_open=True)
        seen: list[str] = []
        while page := store.batches.all(limit=2, before=seen[-1] if seen else None):
            seen += _ids(page)
        assert sorted(seen) == [f"batch-{number}" for number in range(7)]

    def test_pruning_removes_what_finished_or_was_created_before(self, store: Store, advance: Advance) -> None:
        make(store, batch_id="finished")
        make(store, 1, batch_id="unfinished")
        advance(advance.short)
        later = make(store, batch_id="later")
        make(store, 1, batch_id="later unfinished")
        assert store.batches.prune() == 0
        assert store.batches.prune(finished_before=later.created_at) == 1
        assert set(_ids(store.batches.all())) == {"unfinished", "later", "later unfinished"}
        assert store.batches.prune(created_before=later.created_at) == 1
        assert set(_ids(store.batches.all())) == {"later", "later unfinished"}
        tomorrow = later.created_at + timedelta(days=2)
        assert store.batches.prune(finished_before=tomorrow, created_before=tomorrow) == 2
        assert store.batches.all() == []

    def test_pruning_goes_by_the_end_of_a_batch_not_by_its_beginning(self, store: Store, advance: Advance) -> None:
        made = make(store, 1)
        advance(advance.short)
        finished_at = succeed(store, 0).batch.finished_at
        assert finished_at is not None
        between = made.created_at + (finished_at - made.created_at) / 2
        assert store.batches.prune(finished_before=between, created_before=between) == 0
        assert store.batches.prune(created_before=finished_at + timedelta(days=1)) == 0
        assert store.batches.prune(finished_before=finished_at + timedelta(seconds=1)) == 1

    def test_cancelled_batches_are_pruned_by_their_beginning(self, store: Store, advance: Advance) -> None:
        for batch_id in ("cancelled", "cancelled and finished", "going on"):
            make(store, 1, batch_id=batch_id)
        for batch_id in ("cancelled", "cancelled and finished"):
            store.batches.cancel(batch_id)
        succeed(store, 0, batch_id="cancelled and finished")
        advance(advance.short)
        later = make(store, 1, batch_id="later")
        store.batches.cancel("later")
        assert store.batches.prune(cancelled_before=later.created_at) == 2
        assert set(_ids(store.batches.all())) == {"going on", "later"}

    def test_what_is_due_is_pruned_with_its_batch(self, store: Store) -> None:
        made = make(store)
        assert store.batches.due(older_than=timedelta())
        assert store.batches.prune(finished_before=made.created_at + timedelta(days=1)) == 1
        assert store.batches.due(older_than=timedelta()) == []

    def test_many_batches_are_pruned_and_listed(self, store: Store) -> None:
        for number in range(130):
            make(store, batch_id=f"batch-{number}")
        assert len(store.batches.all()) == 50
        assert len(store.batches.all(limit=1000)) == 130
        assert store.batches.prune(finished_before=datetime.now(tz=timezone.utc) + timedelta(days=1)) == 130


def _ids(records: list[BatchRecord]) -> list[str]:
    return [record.id for record in records]
