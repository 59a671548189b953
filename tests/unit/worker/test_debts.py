"""What is owed of jobs that have ended: as data, and insisted upon."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from celery_laravel import StoreUnavailableError
from celery_laravel.message.debts import SETTLE
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.records import AttemptEnd, DispatchEnd, FailedJob, MemberEnd, MemberState
from celery_laravel.worker import debts
from celery_laravel.worker.debts import Debt, Payment

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

NOON = datetime(2026, 1, 2, 12, 0, 0, 250000, tzinfo=timezone.utc)
RECORD = FailedJob("job", "default", "q", "task", "()", "{}", "OSError: x", "…", NOON, 3, "batch", {"body": "b"})
MEMBER = MemberEnd("batch", 4, "job", MemberState.FAILED, (5, 6), {"class": "OSError", "message": "x"})
ATTEMPT = AttemptEnd("job", 2, True, 3, 1)
CHAIN = {"id": "chain", "catch": [{"task": "note"}], "round": 1}
REQUEST = Context(id="job", delivery_info={"exchange": "", "routing_key": "somewhere", "priority": 3})
AWAY = StoreUnavailableError("redis://nowhere")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debts, "_SHORTEST_PAUSE", 0.001)
    monkeypatch.setattr(debts, "_LONGEST_PAUSE", 0.002)


@pytest.fixture
def paying(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Debt]]:
    """Let paying end in these ways, one after another, and then well; returned is what was tried."""

    def fail(*errors: Exception) -> list[Debt]:
        tried: list[Debt] = []

        def pay(debt: Debt) -> None:
            tried.append(debt)
            if len(tried) <= len(errors):
                raise errors[len(tried) - 1]

        monkeypatch.setattr(runtime_of(app).debts, "pay", pay)
        return tried

    return fail


@pytest.mark.parametrize(
    "debt",
    [
        Debt("job", "task"),
        Debt("job", "task", unlock=("a", "b"), member=MEMBER, attempt=ATTEMPT),
        Debt("job", "task", chain=CHAIN, error={"class": "OSError"}, record=RECORD),
        Debt("job", "task", batch_id="batch", succeeded=(1, 2)),
        Debt("batch", "Bus.batch", dispatch=DispatchEnd("batch", closes=True)),
        Debt("batch", "Bus.batch", dispatch=DispatchEnd("batch", True, True, True, ((1, 4), (6, 6)), (10, 5))),
    ],
)
def test_a_debt_travels_as_plain_values(debt: Debt) -> None:
    assert Debt.decode(json.loads(json.dumps(debt.encode()))) == debt
    assert debt.is_nothing == (debt == Debt("job", "task"))


def pay(app: Celery, *, patience: float, gives_up: bool = False) -> Payment:
    return runtime_of(app).debts.pay_surely(
        Debt("job", "task", attempt=ATTEMPT), REQUEST, patience=patience, gives_up=gives_up
    )


@pytest.mark.parametrize(
    "errors", [(), (AWAY,), (AWAY, OperationalError("the broker"), AWAY), (SoftTimeLimitExceeded(),)]
)
def test_the_store_is_tried_until_it_answers(app: Celery, paying: Any, errors: Any) -> None:
    """Whatever time limit strikes meanwhile."""
    tried = paying(*errors)
    assert pay(app, patience=60) is Payment.PAID
    assert len(tried) == len(errors) + 1


def test_the_broker_keeps_what_the_store_does_not_take(app: Celery, paying: Any) -> None:
    paying(*[AWAY] * 3)
    assert pay(app, patience=0) is Payment.KEPT
    message = app.connection_for_write().channel().basic_get("somewhere")
    assert message.headers["task"] == SETTLE
    ((data,), _, _) = message.payload
    assert Debt.decode(data) == Debt("job", "task", attempt=ATTEMPT)


@pytest.fixture
def no_broker(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A broker that takes nothing; returned is how often it was asked."""
    asked: list[int] = []

    def refuse(*_: Any, **__: Any) -> None:
        asked.append(1)
        raise OperationalError("no broker")

    monkeypatch.setattr(app.tasks[SETTLE], "apply_async", refuse)
    return asked


def test_where_neither_answers_both_are_tried_until_one_does(
    app: Celery, paying: Any, no_broker: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """That is told once when it begins and once when it is over: an outage may be long, and meet many jobs."""
    tried = paying(*[AWAY] * 5)
    assert pay(app, patience=0) is Payment.PAID
    assert (len(tried), len(no_broker)) == (6, 5)
    said = [record for record in caplog.records if record.name == debts.logger.name]
    assert [record.levelname for record in said] == ["ERROR", "WARNING"]
    assert said[0].getMessage() == (
        f"Job job (task) has ended, and neither the store ({AWAY}) nor the broker (no broker) takes note of it"
    )
    assert said[0].exc_info is None, "the message says it all"
    assert said[1].getMessage() == "The end of job job (task) is written down now"


def test_who_may_not_wait_tries_each_once(
    app: Celery, paying: Any, no_broker: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    tried = paying(*[AWAY] * 5)
    assert pay(app, patience=0, gives_up=True) is Payment.OWED
    assert (len(tried), len(no_broker)) == (1, 1)
    assert "neither the store" in caplog.text


def test_what_was_handed_over_waits_in_the_queue_while_the_store_is_away(app: Celery, paying: Any) -> None:
    paying(AWAY)
    app.conf.task_default_queue = "elsewhere"
    channel = app.connection_for_write().channel()
    data = Debt("job", "task", attempt=ATTEMPT).encode()
    request = {"id": "settle-1", "is_eager": False, "delivery_info": {"exchange": "", "routing_key": "elsewhere"}}
    app.tasks[SETTLE].push_request(args=(data,), kwargs={}, called_directly=False, **request)
    try:
        with pytest.raises(Exception, match="the store does not answer"):
            app.tasks[SETTLE].run(data)
    finally:
        app.tasks[SETTLE].pop_request()
    message = channel.basic_get("elsewhere")
    assert (message.headers["id"], message.headers["task"]) == ("settle-1", SETTLE)
    assert message.headers["eta"] is not None
    ((again,), _, _) = message.payload
    assert Debt.decode(again) == Debt("job", "task", attempt=ATTEMPT)
