"""A look at a batch is one exchange with the server, whatever became of its members."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from celery_laravel.stores.contracts import Store
from celery_laravel.stores.records import FAILED_IDS_NAMED, MemberEnd, MemberState, NewBatch
from celery_laravel.stores.redis import RedisStore
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore
from tests.stores.conftest import remove_keys

SIZES = [0, 1, FAILED_IDS_NAMED + 1]
"""How many members of the batches that are looked at have failed."""


def make_batch(store: Store, failed: int) -> None:
    store.batches.create(NewBatch("batch", callbacks={"then": [{"task": "a"}]}, allows_failures=True))
    store.batches.add("batch", 2_000)
    for index in range(failed):
        store.batches.end_member(MemberEnd("batch", index, f"job-{index}", MemberState.FAILED, exception={"type": "E"}))


def look(store: Store, failed: int) -> None:
    record = store.batches.find("batch")
    assert record is not None
    assert (record.failed_jobs, len(record.failed_job_ids)) == (failed, min(failed, FAILED_IDS_NAMED))


@contextmanager
def statements(store: SQLAlchemyStore) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    engine = store._database._engine()
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("failed", SIZES)
def test_a_look_is_one_statement(sql_store: SQLAlchemyStore, failed: int):
    make_batch(sql_store, failed)
    with statements(sql_store) as seen:
        look(sql_store, failed)
    assert len(seen) == 1, seen


@pytest.mark.redis
@pytest.mark.parametrize("failed", SIZES)
def test_a_look_is_one_round_trip(
    redis_url: str, redis_prefix: str, failed: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    store = RedisStore(redis_url, redis_prefix)
    request.addfinalizer(lambda: remove_keys(redis_url, redis_prefix))
    request.addfinalizer(store.close)
    make_batch(store, failed)
    look(store, failed)  # which makes the server know the script
    sent: list[int] = []
    exchange = store._connections._exchange  # type: ignore[union-attr]  # a single server's

    def counted(commands: list[bytes]) -> list[Any]:
        sent.append(len(commands))
        answers: list[Any] = exchange(commands)
        return answers

    monkeypatch.setattr(store._connections, "_exchange", counted)
    look(store, failed)
    store.batches.answers.forget("batch")  # as in a process that has not seen the batch before
    look(store, failed)
    assert sent == [1, 1]
