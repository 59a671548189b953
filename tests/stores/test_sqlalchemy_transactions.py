"""Two transactions at once: who waits, who finishes, who loses and tries again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import pytest
from sqlalchemy import Connection, event, text, update

from celery_laravel.errors import StoreUnavailableError
from celery_laravel.stores.records import AttemptEnd, BatchChange, LockRequest, MemberEnd, MemberState, NewBatch
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore
from tests.stores.open_transactions import both_held_open
from tests.stores.sql import on_server

HOUR = timedelta(hours=1)
WORKER = Path(__file__).with_name("sql_worker.py")

Way = Callable[[SQLAlchemyStore, Connection, MemberEnd], "BatchChange | None"]


def in_steps(store: SQLAlchemyStore, connection: Connection, end: MemberEnd) -> BatchChange | None:
    return store.batches.end_member_within(connection, end)


def in_one(store: SQLAlchemyStore, connection: Connection, end: MemberEnd) -> BatchChange | None:
    return store._settle_in_one.within(connection, end, None)


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[SQLAlchemyStore]:
    with on_server(postgresql_url) as store:
        yield store


@pytest.fixture
def mariadb(mariadb_url: str) -> Iterator[SQLAlchemyStore]:
    with on_server(mariadb_url) as store:
        yield store


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def server(request: pytest.FixtureRequest) -> SQLAlchemyStore:
    store: SQLAlchemyStore = request.getfixturevalue(request.param)
    return store


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url_and_prefix(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A database in which the tables are there, for other processes to work in."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db", "suite"
        return
    with on_server(request.getfixturevalue(f"{request.param}_url")) as store:
        yield str(request.getfixturevalue(f"{request.param}_url")), store._database.prefix


def batch_of(store: SQLAlchemyStore, members: int) -> str:
    batch_id = uuid4().hex
    store.batches.create(NewBatch(batch_id, callbacks={"then": [{"task": "t"}], "finally": [{"task": "f"}]}))
    store.batches.add(batch_id, members)
    store.batches.close(batch_id)
    return batch_id


def success(batch_id: str, index: int) -> MemberEnd:
    return MemberEnd(batch_id, index, f"job-{index}", MemberState.SUCCEEDED)


def both_end(store: SQLAlchemyStore, first: Way, second: Way, ends: list[MemberEnd]) -> list[BatchChange | None]:
    """End a member, and another in a second transaction that has to wait for the first one's commit."""
    return [*both_held_open(store, lambda c: first(store, c, ends[0]), lambda c: second(store, c, ends[1]))]


def assert_one_finished(store: SQLAlchemyStore, batch_id: str, changes: list[BatchChange | None]) -> None:
    first, second = changes
    assert first is not None
    assert second is not None
    assert (first.batch.pending_jobs, second.batch.pending_jobs) == (1, 0)
    assert (first.batch.finished_at, first.due) == (None, ())
    assert second.batch.finished_at is not None
    assert [callback.kind for callback in second.due] == ["then", "finally"]
    found = store.batches.find(batch_id)
    assert found is not None
    assert (found.pending_jobs, found.finished_at) == (0, second.batch.finished_at)


@pytest.mark.postgresql
@pytest.mark.parametrize("first", [in_steps, in_one])
@pytest.mark.parametrize("second", [in_steps, in_one])
def test_of_two_open_transactions_that_end_the_last_members_one_finishes(
    postgresql: SQLAlchemyStore, first: Way, second: Way
):
    batch_id = batch_of(postgresql, 2)
    changes = both_end(postgresql, first, second, [success(batch_id, 0), success(batch_id, 1)])
    assert_one_finished(postgresql, batch_id, changes)


@pytest.mark.mariadb
def test_of_two_open_transactions_that_end_the_last_members_one_finishes_on_mariadb(mariadb: SQLAlchemyStore):
    batch_id = batch_of(mariadb, 2)
    changes = both_end(mariadb, in_steps, in_steps, [success(batch_id, 0), success(batch_id, 1)])
    assert_one_finished(mariadb, batch_id, changes)


@pytest.mark.postgresql
@pytest.mark.parametrize("first", [in_steps, in_one])
def test_the_same_member_ended_in_one_statement_by_two_open_transactions_counts_once(
    postgresql: SQLAlchemyStore, first: Way
):
    batch_id = batch_of(postgresql, 2)
    change, copy = both_end(postgresql, first, in_one, [success(batch_id, 0), success(batch_id, 0)])
    assert change is not None
    assert change.changed
    assert copy is None
    again = postgresql.batches.end_member(success(batch_id, 0))
    assert again is not None
    assert (again.changed, again.batch.pending_jobs) == (False, 1)


def test_the_same_member_ended_by_two_open_transactions_counts_once(server: SQLAlchemyStore):
    batch_id = batch_of(server, 2)
    change, copy = both_end(server, in_steps, in_steps, [success(batch_id, 0), success(batch_id, 0)])
    assert change is not None
    assert copy is not None
    assert (change.changed, copy.changed, copy.batch.pending_jobs) == (True, False, 1)


@pytest.mark.postgresql
def test_a_failure_that_another_transaction_waited_for_is_told_with_its_id(postgresql: SQLAlchemyStore):
    """The second way looks away from a batch that has failures by the time it holds the row."""
    batch_id = batch_of(postgresql, 2)
    failure = MemberEnd(batch_id, 0, "job-0", MemberState.FAILED)
    _, unsettled = both_end(postgresql, in_steps, in_one, [failure, success(batch_id, 1)])
    assert unsettled is None
    change = postgresql.batches.end_member(success(batch_id, 1))
    assert change is not None
    assert (change.changed, change.batch.failed_job_ids, change.batch.failed_jobs) == (True, ("job-0",), 1)


def test_a_batch_that_is_deleted_meanwhile_is_not_counted(server: SQLAlchemyStore):
    batch_id = batch_of(server, 2)

    def delete(store: SQLAlchemyStore, connection: Connection, end: MemberEnd) -> None:
        store.batches._removal.within(connection, store.batches._batches.c.id == end.batch_id)

    changes = both_end(server, delete, in_steps, [success(batch_id, 0), success(batch_id, 1)])
    assert changes == [None, None]
    with server._database._engine().connect() as connection:
        members = server._database.tables.members
        assert connection.execute(members.select()).all() == []


def test_who_loses_a_deadlock_tries_again(server: SQLAlchemyStore):
    first, second = batch_of(server, 1), batch_of(server, 1)
    batches = server._database.tables.batches
    meet, trials = Barrier(2), {first: 0, second: 0}

    def rename(mine: str, other: str) -> None:
        def work(connection: Connection) -> None:
            trials[mine] += 1
            connection.execute(update(batches).where(batches.c.id == mine).values(name=f"mine of {mine}"))
            if trials[mine] == 1:
                meet.wait(10)
            connection.execute(update(batches).where(batches.c.id == other).values(name=f"other of {mine}"))

        server._database.transaction(work)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(rename, first, second), pool.submit(rename, second, first)]:
            done.result(30)
    assert sorted(trials.values()) == [1, 2]


@pytest.mark.postgresql
def test_who_loses_every_time_says_that_the_store_is_unavailable(postgresql: SQLAlchemyStore):
    trials = []

    def lose(connection: Connection) -> None:
        trials.append(1)
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$"))

    with pytest.raises(StoreUnavailableError, match="lost"):
        postgresql._database.transaction(lose)
    assert len(trials) == 6


def test_a_row_that_others_keep_removing_is_not_looked_for_for_ever(tmp_path: Path):
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/store.db")
    store.limits._rows._make = lambda *_: 0  # removed at once
    with pytest.raises(StoreUnavailableError, match="the limiter 'l' changes all the time"):
        store.limits.hit("l", "key", seconds=60)
    store.locks._rows._make_head = lambda *_: 0
    with pytest.raises(StoreUnavailableError, match="the lock 'key' changes all the time"):
        store.locks.acquire(LockRequest("key", "owner", "funnel", slots=2))
    store.close()


@pytest.mark.postgresql
def test_the_hot_path_takes_one_statement_each_way(postgresql: SQLAlchemyStore):
    batch_id = batch_of(postgresql, 2)
    statements: list[str] = []
    engine = postgresql._database._engine()
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    postgresql.attempts.begin("job", turn=0, attempts=0, exceptions=0, owner="w", lease=HOUR, keep=HOUR)
    postgresql.settle(member=success(batch_id, 0), attempt=AttemptEnd("job", 0, is_final=True), keep=HOUR)
    assert len(statements) == 2
    assert all(len(statement) < 4096 for statement in statements)  # psycopg parses longer ones anew each time


def test_processes_that_end_a_batch_together_leave_one_finisher(url_and_prefix: tuple[str, str]):
    url, prefix = url_and_prefix
    store = SQLAlchemyStore(url, prefix)
    batch_id, workers, each = batch_of(store, 60), 3, 20
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), "end", url, prefix, batch_id, str(each * n), str(each * (n + 1))],
            stdout=subprocess.PIPE,
        )
        for n in range(workers)
    ]
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert sorted(pending for answer in answers for pending in answer["pending"]) == list(range(60))
    assert sorted(kind for answer in answers for kind in answer["due"]) == ["finally", "then"]
    found = store.batches.find(batch_id)
    assert found is not None
    assert (found.pending_jobs, found.failed_jobs) == (0, 0)
    store.close()
