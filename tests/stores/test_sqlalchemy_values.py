"""What is kept is given back equal, whatever the back end thinks of it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.records import (
    AttemptEnd,
    FailedJob,
    LockRequest,
    MemberEnd,
    MemberState,
    NewBatch,
    NewDelay,
    StartStatus,
    Window,
)
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore
from tests.stores.sql import on_server

HOUR = timedelta(hours=1)
STRANGE = ["\x00", "a\x00b", "\ud800", "\x01json:1", "\x01", "é€😀", "a ", "A", "'\"\\%s:x?", "\r\n\t", ""]


@pytest.fixture
def store(sql_store: SQLAlchemyStore) -> SQLAlchemyStore:
    return sql_store


def failed(job_id: str, said: str) -> FailedJob:
    at = datetime(2030, 10, 27, 1, 30, 0, 123457, tzinfo=timezone(timedelta(hours=2)))
    return FailedJob(job_id, said, said, said, said, said, said, said, at, 3, "batch", {said: [said, 0.1, None]})


@pytest.mark.parametrize("said", STRANGE, ids=ascii)
def test_strange_text_is_kept_as_it_is(store: SQLAlchemyStore, said: str):
    job = failed("job", said)
    assert store.failed_jobs.record(job)
    assert store.failed_jobs.find("job") == job
    assert store.failed_jobs.count(queue=said) == 1


def test_ids_that_look_alike_are_different(store: SQLAlchemyStore):
    ids = ["a", "A", "á", "a ", "a  ", " ", "\x00", "b" * 255]
    delays = {job_id: NewDelay(job_id, job_id, "task", job_id, "", delay=HOUR) for job_id in ids}
    for job_id in ids:
        assert store.failed_jobs.record(failed(job_id, "x"))
        assert not store.failed_jobs.record(failed(job_id, "y"))
        start = store.attempts.begin(job_id, turn=0, attempts=0, exceptions=0, owner="w", lease=HOUR, keep=HOUR)
        assert start.status is StartStatus.STARTED
        store.batches.create(NewBatch(job_id))
        store.batches.add(job_id, 1)
        store.batches.end_member(MemberEnd(job_id, 0, job_id, MemberState.FAILED))
    store.delays.park([*delays.values(), *delays.values()])
    for job_id in ids:
        assert store.failed_jobs.find(job_id) == failed(job_id, "x")
        batch = store.batches.find(job_id)
        assert batch is not None
        assert (batch.id, batch.failed_job_ids) == (job_id, (job_id,))
        (delay,) = store.delays.find(job_id)
        assert (delay.entry, delay.job_id) == (job_id, job_id)
        assert store.delays.all(queue=job_id) == [delay]
        assert store.delays.remove([job_id]) == 1


def test_queues_that_look_alike_are_different(store: SQLAlchemyStore):
    queues = ["q", "Q", "q ", " "]
    for queue in queues:
        store.failed_jobs.record(failed(f"job of {queue}", queue))
    assert [store.failed_jobs.count(queue=queue) for queue in queues] == [1, 1, 1, 1]


def test_an_id_that_no_index_can_hold_is_refused(store: SQLAlchemyStore):
    with pytest.raises(ValueError, match=r"^The id 'b+… has 256 characters; an SQL store keeps ids of at most 255"):
        store.failed_jobs.record(failed("b" * 256, "x"))


ALIKE = [
    "a",
    "A",
    "á",
    "a ",
    "a  ",
    " a",
    "\x00",
    "\ud800",
    "\x01json:1",
    "",
    " ",
    "😀" * 255,
    "😀" * 254 + " ",
    "b" * 255,
]


def test_keys_and_owners_that_look_alike_are_different(store: SQLAlchemyStore):
    for key in ALIKE:
        assert store.locks.acquire(LockRequest(key, key, "overlap", ttl=HOUR, slots=2)).was_held is False
        assert store.limits.hit(key, key, seconds=3600) == 1
        assert store.debounces.reserve(key, wait=HOUR, max_wait=None, keep=HOUR).number == 1
    for key in ALIKE:
        assert [(record.key, record.owner) for record in store.locks.find(key)] == [(key, key)]
        assert store.locks.release([key, "other"], owner=key) == {key: None}
        assert store.limits.look(key, key).count == 1


def test_a_limiter_takes_keys_that_look_alike_together(store: SQLAlchemyStore):
    answer = store.limits.take("limiter", [Window(key, 1, 3600) for key in ALIKE], caller="a ")
    assert [slot.key for slot in answer.slots] == ALIKE
    assert not store.limits.take("limiter", [Window("a ", 1, 3600)], caller="a").granted
    store.limits.cancel("limiter", ["a "], caller="a ")
    assert not store.limits.take("limiter", [Window("a ", 1, 3600)], caller="a").granted


def test_a_key_that_no_index_can_hold_is_refused(store: SQLAlchemyStore):
    with pytest.raises(ValueError, match=r"^The key or owner 'b+… has 400 characters; an SQL store keeps 255"):
        store.locks.acquire(LockRequest("b" * 400, "owner", "overlap"))


def test_locks_that_last_beyond_all_calendars_are_kept_as_far_off(store: SQLAlchemyStore):
    assert store.locks.acquire(LockRequest("long", "a", "overlap", ttl=timedelta.max)).acquired
    assert store.locks.acquire(LockRequest("for ever", "a", "overlap")).acquired
    refused = store.locks.acquire(LockRequest("long", "b", "overlap"))
    assert refused.expires_in is not None
    assert refused.expires_in > 1e9
    assert store.locks.acquire(LockRequest("for ever", "b", "overlap")).expires_in is None
    far, never = sorted(store.locks.all(), key=lambda record: record.key, reverse=True)
    assert far.expires_at is not None
    assert far.expires_at.year > 3000
    assert never.expires_at is None
    assert not store.limits.take("limiter", [Window("key", 1, 1e30)], caller="a").delay
    assert store.limits.take("limiter", [Window("key", 1, 1e30)], caller="b").delay > 1e9


def test_large_payloads_are_kept(store: SQLAlchemyStore):
    job = failed("job", "x" * 1_000_000)
    job = FailedJob(**{**vars(job), "queue": "q"})
    store.failed_jobs.record(job)
    assert store.failed_jobs.find("job") == job


def test_the_order_of_keys_is_kept(store: SQLAlchemyStore):
    store.batches.create(NewBatch("batch", options={"z": 1, "a": {"y": 1, "b": 2}}))
    batch = store.batches.find("batch")
    assert batch is not None
    assert [list(batch.options), list(batch.options["a"])] == [["z", "a"], ["y", "b"]]


def test_times_beyond_all_calendars_are_kept_as_far_off(store: SQLAlchemyStore):
    never = timedelta.max
    start = store.attempts.begin("job", turn=0, attempts=0, exceptions=0, owner="w", lease=never, keep=never)
    assert start.status is StartStatus.STARTED
    assert store.attempts.end(AttemptEnd("job", 0, is_final=False, attempts=1, delay=1e30), keep=never)
    again = store.attempts.begin("job", turn=0, attempts=0, exceptions=0, owner="w", lease=never, keep=never)
    assert again.status is StartStatus.RELEASED
    assert again.delay > 1e9


def test_very_many_skips_are_counted(store: SQLAlchemyStore):
    store.batches.create(NewBatch("batch"))
    store.batches.add("batch", 1001)
    end = MemberEnd("batch", 0, "job", MemberState.FAILED, skips=tuple(range(2000)))
    change = store.batches.end_member(end)
    assert change is not None
    assert (change.batch.skipped_jobs, change.batch.pending_jobs) == (1000, 0)
    revived = store.batches.revive("batch", 0, job_id="job", skips=end.skips)
    assert revived is not None
    assert (revived.batch.skipped_jobs, revived.batch.pending_jobs) == (0, 1001)


def test_a_large_batch_has_rows_for_ended_members_alone(store: SQLAlchemyStore):
    store.batches.create(NewBatch("batch"))
    store.batches.add("batch", 1_000_000_000)
    store.batches.end_member(MemberEnd("batch", 999_999_999, "job", MemberState.SUCCEEDED))
    with store._database._engine().connect() as connection:
        rows = connection.execute(store._database.tables.members.select()).all()
    assert [row.position for row in rows] == [999_999_999]


@pytest.mark.postgresql
def test_the_reason_of_an_error_does_not_tell_what_was_kept(postgresql_url: str):
    """An error's text ends in logs, and arguments of jobs do not belong there."""

    def work(connection: Connection) -> None:
        raised = "RAISE EXCEPTION 'lost' USING ERRCODE = '57014', DETAIL = 'the row is (secret)'"
        connection.execute(text(f"DO $$ BEGIN {raised}; END $$"))

    with on_server(postgresql_url) as store, pytest.raises(StoreUnavailableError, match="lost") as caught:
        store._database.transaction(work)
    assert "secret" not in str(caught.value)


def test_the_values_of_a_statement_are_not_told(tmp_path: Path):
    secret = uuid4().hex
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/store.db")

    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO laravel_failed_jobs (id) VALUES (:id)"), {"id": secret})

    with pytest.raises(IntegrityError) as caught:
        store._database.transaction(work)
    assert secret not in str(caught.value)
    store.close()
