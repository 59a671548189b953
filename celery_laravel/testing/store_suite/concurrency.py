# ruff: noqa: D102  the name of a test is its sentence
"""What has to hold when many workers ask a `Store` at the same time."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import TYPE_CHECKING, TypeVar

from celery_laravel.stores.records import AttemptEnd, BatchChange, MemberState, NewBatch, StartStatus
from celery_laravel.testing.store_suite.attempts import begin
from celery_laravel.testing.store_suite.batch_help import CATCH, FINALLY, THEN, counts, due, ending, found, make
from celery_laravel.testing.store_suite.failed_jobs import failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_laravel.stores.contracts import Store

Answer = TypeVar("Answer")

THREADS = 8
HOUR = timedelta(hours=1)


def at_once(ask: Callable[[int], Answer], *, threads: int = THREADS) -> list[Answer]:
    """Call ``ask`` with 0, 1, 2… in as many threads, which set off together; return the answers in that order."""
    ready = Barrier(threads)

    def wait_and_ask(number: int) -> Answer:
        ready.wait(30)
        return ask(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(wait_and_ask, range(threads)))


class ConcurrencySuite:
    """Of many that ask for the same change at once, one makes it."""

    def test_one_of_many_who_end_members_at_once_is_the_finisher(self, store: Store) -> None:
        for turn in range(5):
            batch_id = f"batch-{turn}"
            make(store, THREADS * 10, batch_id=batch_id)
            changes = at_once(lambda thread, batch_id=batch_id: _end_ten(store, batch_id, thread))  # type: ignore[misc]
            every = [change for ten in changes for change in ten]
            assert all(change.changed for change in every)
            assert sorted(change.batch.pending_jobs for change in every) == list(range(THREADS * 10))
            assert [due(change) for change in every if change.due] == [THEN + FINALLY]
            assert counts(found(store, batch_id)) == (THREADS * 10, 0, 0, 0)

    def test_one_of_many_who_end_the_same_member_at_once_changes_it(self, store: Store) -> None:
        make(store, 10)
        for index in range(10):
            changes = at_once(lambda _, index=index: store.batches.end_member(ending(index, MemberState.SUCCEEDED)))  # type: ignore[misc]
            assert Counter(change is not None and change.changed for change in changes) == {True: 1, False: THREADS - 1}
        assert counts(found(store)) == (10, 0, 0, 0)

    def test_one_of_many_failures_at_once_is_the_first(self, store: Store) -> None:
        make(store, THREADS)
        changes = at_once(lambda index: _fail(store, index))
        kinds = [kind for change in changes for kind, *_ in due(change)]
        assert sorted(kinds) == ["catch", "finally"]
        first = next(change for change in changes if CATCH[0] in due(change))
        assert found(store).first_exception == first.batch.first_exception
        assert len({change.batch.cancelled_at for change in changes}) == 1

    def test_the_batch_finishes_once_when_it_is_closed_while_its_last_members_end(self, store: Store) -> None:
        for turn in range(5):
            batch_id = f"batch-{turn}"
            make(store, THREADS - 1, batch_id=batch_id, is_open=True)

            def close_or_end(thread: int, batch_id: str = batch_id) -> BatchChange | None:
                if thread == 0:
                    return store.batches.close(batch_id)
                return store.batches.end_member(ending(thread - 1, MemberState.SUCCEEDED, batch_id=batch_id))

            finishers = [change for change in at_once(close_or_end) if change is not None and change.due]
            assert [due(change) for change in finishers] == [THEN + FINALLY]

    def test_members_added_at_once_get_indices_of_their_own(self, store: Store) -> None:
        make(store, is_open=True)
        firsts = at_once(lambda _: [store.batches.add("batch", 3) for _ in range(5)])
        assert sorted(first for of_one in firsts for first in of_one) == list(range(0, THREADS * 15, 3))
        assert found(store).total_jobs == THREADS * 15

    def test_many_who_create_the_same_batch_find_the_same(self, store: Store) -> None:
        records = at_once(lambda thread: store.batches.create(NewBatch("batch", name=f"by {thread}")))
        assert {record.name for record in records} == {found(store).name}
        assert len(store.batches.all()) == 1

    def test_one_of_many_cancels_and_one_of_many_deletes(self, store: Store) -> None:
        make(store, 1)
        changes = at_once(lambda _: store.batches.cancel("batch"))
        assert sum(change is not None and change.changed for change in changes) == 1
        assert sum(at_once(lambda _: store.batches.delete("batch"))) == 1

    def test_one_of_many_revives_a_member(self, store: Store) -> None:
        make(store, 1)
        _fail(store, 0)
        changes = at_once(lambda _: store.batches.revive("batch", 0, job_id="job-0"))
        assert sum(change is not None and change.changed for change in changes) == 1
        assert counts(found(store)) == (0, 0, 0, 1)

    def test_one_of_many_who_begin_the_same_job_at_once_starts_it(self, store: Store) -> None:
        for number in range(5):
            job = f"job-{number}"
            starts = at_once(lambda thread, job=job: begin(store, job, owner=f"worker-{thread}"))  # type: ignore[misc]
            statuses = Counter(start.status for start in starts)
            assert statuses == {StartStatus.STARTED: 1, StartStatus.RUNNING: THREADS - 1}

    def test_without_a_lease_many_who_begin_at_once_are_counted(self, store: Store) -> None:
        none = timedelta()
        starts = at_once(lambda thread: begin(store, owner=f"worker-{thread}", lease=none))
        assert sorted(start.attempt for start in starts) == list(range(1, THREADS + 1))

    def test_one_of_many_ends_a_turn(self, store: Store) -> None:
        begin(store)
        ends = at_once(lambda _: store.attempts.end(AttemptEnd("job", 0, is_final=True), keep=HOUR))
        assert sum(ends) == 1

    def test_one_of_many_records_a_failed_job_and_one_forgets_it(self, store: Store) -> None:
        assert sum(at_once(lambda _: store.failed_jobs.record(failed()))) == 1
        assert store.failed_jobs.count() == 1
        assert sum(at_once(lambda _: store.failed_jobs.forget("job"))) == 1

    def test_one_of_many_claims_a_failed_job_and_one_records_its_next_failure(self, store: Store) -> None:
        for number in range(5):
            job = f"job-{number}"
            store.failed_jobs.record(failed(job))
            claims = at_once(lambda thread, job=job: store.failed_jobs.claim(job, owner=f"o-{thread}", lease=HOUR))  # type: ignore[misc]
            assert sum(claim is not None for claim in claims) == 1
            records = at_once(lambda thread, job=job: store.failed_jobs.record(failed(job, minutes=1 + thread)))  # type: ignore[misc]
            assert sum(records) == 1
            assert store.failed_jobs.find(job) == failed(job, minutes=1 + records.index(True))


def _end_ten(store: Store, batch_id: str, thread: int) -> list[BatchChange]:
    indices = range(thread * 10, thread * 10 + 10)
    changes = [store.batches.end_member(ending(index, MemberState.SUCCEEDED, batch_id=batch_id)) for index in indices]
    return [change for change in changes if change is not None]


def _fail(store: Store, index: int) -> BatchChange:
    change = store.batches.end_member(ending(index, MemberState.FAILED, exception={"index": index}))
    assert change is not None
    return change
