"""Locks and limits in SQL: what two transactions that are open at once do, and what calls cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, func, select

from celery_laravel.stores.records import LimitAnswer, LockAnswer, LockRequest, Place, StartStatus, Window
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore
from celery_laravel.stores.sqlalchemy.locks import _parameters
from celery_laravel.testing.processes import wait_until
from celery_laravel.testing.store_suite import VirtualTime
from tests.stores.open_transactions import both_held_open
from tests.stores.sql import on_server

HOUR = timedelta(hours=1)


@pytest.fixture
def server(sql_server: SQLAlchemyStore) -> SQLAlchemyStore:
    return sql_server


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SQLAlchemyStore]:
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/store.db")
    yield store
    store.close()


def wish(owner: str, key: str = "lock", **given: object) -> LockRequest:
    return LockRequest(key, owner, **({"kind": "overlap", "ttl": HOUR} | given))  # type: ignore[arg-type]


def acquiring(store: SQLAlchemyStore, request: LockRequest) -> Callable[[Connection], LockAnswer]:
    return lambda connection: store.locks.acquire_within(connection, request)


def taking(store: SQLAlchemyStore, *windows: Window, caller: str) -> Callable[[Connection], LimitAnswer]:
    return lambda connection: store.limits.take_within(connection, "limiter", windows, caller=caller)


def counted(store: SQLAlchemyStore, table: str) -> int:
    rows = select(func.count()).select_from(getattr(store._database.tables, table))
    return store._database.single(lambda connection: connection.execute(rows).scalar_one())


@pytest.mark.parametrize("slots", [(1, 1), (2, 2), (1, 2), (2, 1)], ids=str)
def test_of_two_open_transactions_that_want_the_last_slot_one_gets_it(server: SQLAlchemyStore, slots: tuple[int, int]):
    if slots == (2, 2):
        server.locks.acquire(wish("holder", slots=2))
    requests = [wish(owner, slots=number) for owner, number in zip("ab", slots, strict=True)]
    first, second = both_held_open(server, *(acquiring(server, request) for request in requests))
    assert first.acquired
    assert second.acquired is (slots == (1, 2)), "who lets two in lets the second in"
    held = {record.owner for record in server.locks.find("lock")} - {"holder"}
    assert held == ({"a", "b"} if second.acquired else {"a"})


def test_a_lock_whose_holder_thinks_again_is_taken_by_who_waited(server: SQLAlchemyStore):
    _, second = both_held_open(
        server, acquiring(server, wish("a")), acquiring(server, wish("b", payload="left")), commits=False
    )
    assert second == LockAnswer(True, "b", HOUR.total_seconds())
    assert server.locks.release(["lock"], owner="b") == {"lock": None}


def test_a_lock_that_is_freed_meanwhile_is_taken_by_who_waited(server: SQLAlchemyStore):
    server.locks.acquire(wish("a"))

    def release(connection: Connection) -> LockAnswer:
        server.locks._rows.release(connection, {"given_keys": ["lock"], "given_owner": "a"})
        return LockAnswer(False, "")

    _, second = both_held_open(server, release, acquiring(server, wish("b")))
    assert second.acquired
    assert not second.was_held


def test_of_two_jobs_that_begin_with_one_lock_in_open_transactions_one_starts(server: SQLAlchemyStore):
    def beginning(job_id: str) -> Callable[[Connection], object]:
        said = {"turn": 0, "attempts": 1, "exceptions": 0, "lease": 10**9, "keep": 10**9, "kept": 10**9}
        parameters = {f"given_{name}": value for name, value in (said | {"job_id": job_id, "owner": job_id}).items()}
        return lambda connection: server.attempts._take_and_start(connection, parameters, wish(job_id))

    first, second = both_held_open(server, beginning("one"), beginning("two"))
    assert [getattr(start, "status", None) for start in (first, second)] == [StartStatus.STARTED, StartStatus.LOCKED]
    assert counted(server, "attempts") == 1


@pytest.mark.parametrize("limit", [1, 2])
def test_of_two_open_transactions_that_want_the_last_start_one_gets_it(server: SQLAlchemyStore, limit: int):
    windows = [Window("one", limit, 3600), Window("two", 9, 60)]
    for number in range(limit - 1):
        assert server.limits.take("limiter", windows, caller=f"earlier-{number}").granted
    first, second = both_held_open(
        server, taking(server, *windows, caller="a"), taking(server, *reversed(windows), caller="b")
    )
    assert (first.granted, second.granted) == (True, False)
    assert second.delay == pytest.approx(3600, abs=60)


def test_who_waited_for_a_key_counts_in_the_window_that_it_is_by_then(server: SQLAlchemyStore):
    window = Window("key", 1, 0.2)
    first_starts: list[float] = []

    def first(connection: Connection) -> LimitAnswer:
        answer = server.limits.take_within(connection, "limiter", [window])
        first_starts.append(answer.slots[0].window_start)
        return answer

    def next_window() -> None:
        wait_until(lambda: server._database.single(server.limits._rows.now) / 1e6 > first_starts[0] + 0.2, 10)

    _, second = both_held_open(
        server, first, lambda c: server.limits.take_within(c, "limiter", [window]), meanwhile=next_window
    )
    assert second.granted
    assert second.slots[0].window_start > first_starts[0]


def test_of_two_open_transactions_that_reserve_each_gets_a_number(server: SQLAlchemyStore):
    server.debounces.reserve("key", wait=HOUR, max_wait=None, keep=HOUR)

    def reserving(connection: Connection) -> Place:
        return server.debounces.reserve_within(connection, "key", wait=HOUR, max_wait=None, keep=HOUR)

    places = both_held_open(server, reserving, reserving)
    assert [(place.period, place.number) for place in places] == [(1, 2), (1, 3)]


def test_an_answer_that_was_lost_is_given_again(sqlite: SQLAlchemyStore):
    """The store repeats a call when its connection broke: the owner has the lock then, but had not before."""
    request = wish("a")
    parameters = _parameters(request)
    for _ in range(2):
        answer = sqlite._database.single(lambda c: sqlite.locks._take(c, request, parameters))
        assert answer == LockAnswer(True, "a", HOUR.total_seconds(), was_held=False)
    assert sqlite.locks.acquire(request).was_held


@pytest.mark.postgresql
def test_a_lock_takes_one_statement_each_way(postgresql_url: str):
    with on_server(postgresql_url) as store:
        store.ping()
        statements: list[str] = []
        engine = store._database._engine()
        event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        store.locks.acquire(wish("a"))
        store.locks.acquire(wish("b", payload="left"))
        store.locks.release_soon(["lock"], owner="a")
    assert len(statements) == 3
    assert all(len(statement) < 4096 for statement in statements)  # psycopg parses longer ones anew each time


def test_a_job_without_a_lock_begins_as_before(sqlite: SQLAlchemyStore):
    def begin(job_id: str, lock: LockRequest | None) -> None:
        given = {"turn": 0, "attempts": 0, "exceptions": 0, "lease": HOUR, "keep": HOUR}
        sqlite.attempts.begin(job_id, owner=job_id, lock=lock, **given)  # type: ignore[arg-type]

    begin("first", None)
    statements: list[str] = []
    event.listen(sqlite._database._engine(), "before_cursor_execute", lambda *args: statements.append(args[2]))
    begin("job", None)
    assert len(statements) == 1
    begin("other", wish("other"))
    assert [statement.partition(" ")[0] for statement in statements[1:]] == ["BEGIN", "INSERT", "INSERT"]


def test_a_refusal_does_not_look_at_all_who_wait(sqlite: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch):
    VirtualTime(monkeypatch)
    window = [Window("key", 1, 60)]
    for number in range(300):
        sqlite.limits.take("limiter", window, caller=f"job-{number}")
    looks: list[str] = []
    event.listen(
        sqlite._database._engine(),
        "before_cursor_execute",
        lambda *args: looks.append(args[2]) if "FROM laravel_limit_windows" in args[2] else None,
    )
    assert sqlite.limits.take("limiter", window, caller="next").delay == pytest.approx(300 * 60)
    assert len(looks) == 1, looks
    sqlite.limits.cancel("limiter", ["key"], caller="job-7")
    assert sqlite.limits.take("limiter", window, caller="in its place").delay == pytest.approx(7 * 60)
    assert sqlite.limits.take("limiter", window, caller="last").delay == pytest.approx(301 * 60)


def test_windows_and_starts_that_have_passed_are_removed_as_time_goes_by(
    sqlite: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
):
    advance = VirtualTime(monkeypatch)
    window = [Window("key", 1, 60)]
    for number in range(5):
        sqlite.limits.take("limiter", window, caller=f"job-{number}")
    assert (counted(sqlite, "limit_windows"), counted(sqlite, "limit_starts")) == (5, 4)
    advance(timedelta(minutes=3))
    assert sqlite.limits.take("limiter", window, caller="job-3").granted
    assert (counted(sqlite, "limit_windows"), counted(sqlite, "limit_starts")) == (2, 1)
    advance(timedelta(minutes=3))
    assert sqlite.limits.take("limiter", window, caller="job-9").granted
    assert (counted(sqlite, "limit_windows"), counted(sqlite, "limit_starts")) == (1, 0)
