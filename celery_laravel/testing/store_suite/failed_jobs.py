# ruff: noqa: D102, PLR2004  the name of a test is its sentence, and its numbers are its own
"""What a `FailedJobStore` has to do."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel.stores.records import FailedJob

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store

NOON = datetime(2026, 3, 29, 12, 0, 0, 123456, tzinfo=timezone.utc)


def failed(job_id: str = "job", *, minutes: float = 0, **given: Any) -> FailedJob:
    """A record with every field filled, failed at noon or so many minutes later."""
    values: dict[str, Any] = {
        "connection": "redis://localhost:6379/0",
        "queue": "default",
        "task": "shop.tasks.import_csv",
        "args_repr": "(1, 'naïve 🚀')",
        "kwargs_repr": "{'rows': [1, 2]}",
        "exception": "ValueError: \"quotes\" and 'quotes'",
        "traceback": "Traceback (most recent call last):\n  …\nValueError",
        "attempts": 3,
        "batch_id": None,
        "payload": {"args": [1, 2.5, None, True, {"deep": ["naïve 🚀", "\x00\x1f\\"]}], "headers": {}, "big": 2**60},
    }
    return FailedJob(id=job_id, failed_at=NOON + timedelta(minutes=minutes), **(values | given))


class FailedJobSuite:
    """Records of failed jobs: kept whole, once, and in order."""

    def test_a_record_comes_back_whole(self, store: Store) -> None:
        for job in (
            failed("alone"),
            failed("member", batch_id="batch", payload={}),
            failed("jöb {1}:*", queue="q ü:*"),
        ):
            assert store.failed_jobs.record(job)
            assert store.failed_jobs.find(job.id) == job
        assert store.failed_jobs.find("nobody") is None

    def test_an_instant_comes_back_aware_and_exact(self, store: Store) -> None:
        elsewhere = timezone(timedelta(hours=5, minutes=45))
        store.failed_jobs.record(failed())
        store.failed_jobs.record(FailedJob(**(vars(failed("there")) | {"failed_at": NOON.astimezone(elsewhere)})))
        for job in store.failed_jobs.all():
            assert job.failed_at.tzinfo is not None
            assert job.failed_at == NOON

    def test_a_large_record_comes_back_whole(self, store: Store) -> None:
        job = failed(traceback="x" * 300_000, payload={"args": ["ü" * 300_000]})
        store.failed_jobs.record(job)
        assert store.failed_jobs.find("job") == job

    def test_a_job_is_recorded_once(self, store: Store) -> None:
        assert store.failed_jobs.record(failed(queue="first"))
        assert not store.failed_jobs.record(failed(queue="second", minutes=5))
        assert store.failed_jobs.find("job") == failed(queue="first")
        assert (store.failed_jobs.count(), store.failed_jobs.count(queue="second")) == (1, 0)

    def test_a_job_may_fail_anew_once_its_record_is_gone(self, store: Store) -> None:
        store.failed_jobs.record(failed())
        store.failed_jobs.forget("job")
        assert store.failed_jobs.record(failed(minutes=1))
        assert store.failed_jobs.find("job") == failed(minutes=1)

    def test_what_json_cannot_carry_is_refused(self, store: Store) -> None:
        with pytest.raises(TypeError):
            store.failed_jobs.record(failed(payload={"a set": {1}}))
        assert store.failed_jobs.count() == 0

    def test_records_are_listed_newest_first(self, store: Store) -> None:
        for job_id, minutes in (("b", 2), ("d", 4), ("a", 1), ("c", 3)):
            store.failed_jobs.record(failed(job_id, minutes=minutes))
        assert [job.id for job in store.failed_jobs.all()] == ["d", "c", "b", "a"]
        assert [job.id for job in store.failed_jobs.all(limit=2)] == ["d", "c"]
        assert [job.id for job in store.failed_jobs.all(limit=9)] == ["d", "c", "b", "a"]
        assert store.failed_jobs.all()[1] == failed("c", minutes=3)

    def test_of_one_instant_the_later_arrival_comes_first(self, store: Store) -> None:
        for job_id in ("b", "a", "d", "c"):
            store.failed_jobs.record(failed(job_id))
        assert [job.id for job in store.failed_jobs.all()] == ["c", "d", "a", "b"]

    def test_records_are_listed_and_counted_by_queue(self, store: Store) -> None:
        for number, queue in enumerate(["high", "low", "high", "hi", "high:er"]):
            store.failed_jobs.record(failed(f"job-{number}", minutes=number, queue=queue))
        jobs = store.failed_jobs
        assert [job.id for job in jobs.all(queue="high")] == ["job-2", "job-0"]
        assert [job.id for job in jobs.all(queue="high", limit=1)] == ["job-2"]
        assert (jobs.count(), jobs.count(queue="high"), jobs.count(queue="low"), jobs.count(queue="none")) == (
            5,
            2,
            1,
            0,
        )
        assert jobs.all(queue="none") == []

    def test_a_record_is_forgotten_once(self, store: Store) -> None:
        store.failed_jobs.record(failed("one"))
        store.failed_jobs.record(failed("two"))
        assert store.failed_jobs.forget("one")
        assert not store.failed_jobs.forget("one")
        assert not store.failed_jobs.forget("nobody")
        assert store.failed_jobs.find("one") is None
        assert [job.id for job in store.failed_jobs.all(queue="default")] == ["two"]
        assert store.failed_jobs.count(queue="default") == 1

    def test_all_records_are_flushed(self, store: Store) -> None:
        for number in range(3):
            store.failed_jobs.record(failed(f"job-{number}", queue=f"queue-{number}"))
        assert store.failed_jobs.flush() == 3
        assert store.failed_jobs.flush() == 0
        assert (store.failed_jobs.all(), store.failed_jobs.count(), store.failed_jobs.count(queue="queue-1")) == (
            [],
            0,
            0,
        )

    def test_records_from_before_an_instant_are_flushed(self, store: Store) -> None:
        for number in range(4):
            store.failed_jobs.record(failed(f"job-{number}", minutes=number))
        assert store.failed_jobs.flush(before=NOON + timedelta(minutes=2)) == 2
        assert [job.id for job in store.failed_jobs.all()] == ["job-3", "job-2"]
        assert store.failed_jobs.count(queue="default") == 2
        assert store.failed_jobs.find("job-1") is None

    def test_very_many_records_are_listed_and_flushed(self, store: Store) -> None:
        for number in range(1_100):
            store.failed_jobs.record(failed(f"job-{number}", minutes=number))
        assert len(store.failed_jobs.all()) == 1_100
        assert store.failed_jobs.flush(before=NOON + timedelta(minutes=1_050)) == 1_050
        assert store.failed_jobs.flush() == 50
