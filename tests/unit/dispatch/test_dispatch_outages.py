"""A store that goes away at a certain call of a batch's dispatch: what was sent is told, and the rest is owed."""

from __future__ import annotations

import logging
import pickle
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Retry
from kombu.exceptions import OperationalError

from celery_laravel import Bus, StoreUnavailableError
from celery_laravel.dispatch import ending, members
from celery_laravel.dispatch.bulk import BulkPublisher
from celery_laravel.dispatch.connections import producers_of
from celery_laravel.errors import BatchDispatchError, BatchFinishedError
from celery_laravel.message.debts import SETTLE
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.records import DispatchEnd, MemberEnd, MemberState, NewBatch
from celery_laravel.testing.faults import put_points
from celery_laravel.worker.debts import Debt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from celery_laravel import Batch

AWAY = StoreUnavailableError("redis://nowhere")


class Fault:
    """Breaks calls of the store: from the ``nth`` time on that they come to a point, until the store is back."""

    def __init__(self) -> None:
        self.at, self.nth = "", 1
        self.is_away = False
        self.seen: list[str] = []

    def __call__(self, point: str) -> None:
        if point.startswith("publish"):
            return
        self.seen.append(point)
        self.is_away = self.is_away or (point == self.at and self.seen.count(point) == self.nth)
        if self.is_away and (point == self.at or point.endswith(":before")):
            raise AWAY

    def set(self, at: str, nth: int = 1) -> None:
        self.at, self.nth = at, nth
        self.seen.clear()

    def mend(self) -> None:
        self.at, self.is_away = "", False


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "PATIENCE", 0)
    monkeypatch.setattr(members, "SLICE", 10)


@pytest.fixture
def fault(app: Celery) -> Fault:
    fault = Fault()
    put_points(app, fault)
    return fault


@pytest.fixture
def work(app: Celery) -> Any:
    @app.task(name="work")
    def work(*args: Any) -> None: ...

    return work


def taken(app: Celery, queue: str | None = None) -> list[Any]:
    """The messages of a queue, which are taken out."""
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        channel.queue_declare(queue or app.main)
        return list(iter(lambda: channel.basic_get(queue or app.main, no_ack=True), None))


def debts_in(messages: list[Any]) -> list[Debt]:
    return [Debt.decode(message.payload[0][0]) for message in messages if message.headers["task"] == SETTLE]


def the_batch(app: Celery) -> Batch:
    batch: Batch
    (batch,) = Bus(app).batches()
    return batch


def no_broker(monkeypatch: pytest.MonkeyPatch, app: Celery) -> None:
    """Let the broker go away once the jobs are sent."""
    send = app.send_task

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name == SETTLE:
            raise OperationalError("no broker")
        return send(name, *args, **options)

    monkeypatch.setattr(app, "send_task", refuse)


def counts(batch: Batch) -> tuple[int, int, int]:
    return batch.total_jobs, batch.skipped_jobs, batch.pending_jobs


@pytest.mark.parametrize("point", ["batches.create:before", "batches.add:before", "batches.add:after"])
def test_before_anything_is_sent_a_store_that_is_away_is_what_the_error_says(
    app: Celery, fault: Fault, work: Any, point: str
) -> None:
    """The removal of the batch, which fails as well, does not hide it."""
    fault.set(point)
    with pytest.raises(StoreUnavailableError) as raised:
        Bus(app).batch([work.s(n) for n in range(15)]).dispatch()
    assert raised.value.__context__ is None
    assert taken(app) == []


@pytest.mark.parametrize("pack", [1, 4])
def test_nothing_is_added_for_a_broker_that_cannot_be_reached(
    app: Celery, work: Any, monkeypatch: pytest.MonkeyPatch, pack: int
) -> None:
    """The members would be waited for, for ever."""
    batch = Bus(app).batch([work.s()]).pack(pack).dispatch()
    before = batch.fresh()
    with monkeypatch.context() as patched:
        patched.setattr(members, "producers_of", lambda app, name: _Unreachable())
        with pytest.raises(OperationalError):
            batch.add([work.s(n) for n in range(3)])
        with pytest.raises(OperationalError):
            Bus(app).batch([work.s(n) for n in range(3)]).pack(pack).dispatch()
    assert Bus(app).batches() == [before]
    assert batch.add([work.s()]).total_jobs == 2, "it goes on once the broker is back"


def test_a_broker_that_is_lost_between_two_slices_breaks_the_dispatch_off(
    app: Celery, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs that have been sent run, and are counted."""
    pools = iter([producers_of(app, None), producers_of(app, None), _Unreachable()])
    monkeypatch.setattr(members, "producers_of", lambda app, name: next(pools))
    with pytest.raises(BatchDispatchError) as raised:
        Bus(app).batch([work.s(n) for n in range(15)]).dispatch()
    assert raised.value.sent == 10
    assert isinstance(raised.value.__cause__, OperationalError)
    batch = the_batch(app)
    assert (counts(batch), batch.cancelled) == ((11, 1, 10), True)


class _Unreachable:
    """The producers of a broker that nobody can connect to, which is found out when one of them is used."""

    @contextmanager
    def acquire(self, *, block: bool) -> Iterator[Any]:
        yield self

    @property
    def channel(self) -> Any:
        raise OperationalError("nobody answers")


@pytest.mark.parametrize("pack", [1, 4])
@pytest.mark.parametrize(
    ("point", "after"), [("batches.add:before", (11, 1, 10)), ("batches.add:after", (15, 5, 10))], ids=["not", "made"]
)
def test_an_add_that_fails_later_breaks_the_dispatch_off(  # noqa: PLR0917  fixtures
    app: Celery, fault: Fault, work: Any, point: str, after: tuple[int, int, int], pack: int
) -> None:
    """Be it that the store has made it and its answer was lost, or not."""
    fault.set(point, 2)
    with pytest.raises(BatchDispatchError, match="10 jobs were sent; the broker keeps word") as raised:
        Bus(app).batch([work.s(n) for n in range(15)]).pack(pack).dispatch()
    assert (raised.value.sent, raised.value.ending, raised.value.__cause__) == (10, "kept", AWAY)
    (debt,) = debts_in(taken(app))
    fault.mend()
    for _ in range(2):
        runtime_of(app).debts.pay(debt)
        batch = the_batch(app)
        assert counts(batch) == after
        assert batch.cancelled


def test_members_that_others_have_added_meanwhile_are_left_alone(app: Celery, fault: Fault, work: Any) -> None:
    def add(sent: int) -> None:
        fault.set("batches.add:before", 2)
        the_batch(app).add([work.s("other"), work.s("other")])

    with pytest.raises(BatchDispatchError):
        Bus(app).batch([work.s(n) for n in range(15)]).dispatch(on_progress=add)
    (debt,) = debts_in(taken(app))
    fault.mend()
    runtime_of(app).debts.pay(debt)
    assert counts(the_batch(app)) == (13, 1, 12)


def test_what_the_broker_did_not_take_is_counted_out_when_the_store_is_back(
    app: Celery, fault: Fault, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of these has gone out all the same, and has ended by then."""
    _break_second_slice(monkeypatch)
    fault.set("batches.find:before")
    with pytest.raises(BatchDispatchError) as raised:
        Bus(app).batch([[work.si(n), work.si(n)] for n in range(15)]).dispatch()
    assert (raised.value.sent, raised.value.ending) == (12, "kept")
    assert isinstance(raised.value.__cause__, OperationalError)
    (debt,) = debts_in(taken(app))
    assert debt.dispatch is not None
    assert debt.dispatch.unsent == ((22, 23), (26, 29))
    fault.mend()
    store = runtime_of(app).store
    store.batches.end_member(MemberEnd(debt.job_id, 22, "sent", MemberState.SUCCEEDED))
    for _ in range(2):
        runtime_of(app).debts.pay(debt)
        assert counts(the_batch(app)) == (30, 5, 24)


def test_where_neither_takes_it_the_error_says_what_to_do(
    app: Celery, fault: Fault, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break_second_slice(monkeypatch)
    no_broker(monkeypatch, app)
    fault.set("batches.find:before")
    with pytest.raises(
        BatchDispatchError, match=r"close-batch \S+ --incomplete --unsent 11-11 --unsent 13-14`"
    ) as raised:
        Bus(app).batch([work.si(n) for n in range(15)]).dispatch()
    error = raised.value
    assert (error.sent, error.ending, error.unsent) == (12, "open", ((11, 11), (13, 14)))
    fault.mend()
    batch = the_batch(app)
    assert (batch.cancelled, batch.pending_jobs) == (False, 15)
    closed = batch.close(incomplete=True, unsent=error.unsent)
    assert (counts(closed), closed.cancelled) == ((15, 3, 12), True)
    again = batch.close(incomplete=True)
    assert counts(again) == (15, 3, 12), "it is closed"


def _break_second_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    publish, called = BulkPublisher.publish, []

    def fail(self: Any, given: Any, indices: Any) -> None:
        called.append(1)
        if len(called) < 2:
            publish(self, given, indices)
        else:
            self.sent = [0, 2]
            raise OperationalError("gone")

    monkeypatch.setattr(BulkPublisher, "publish", fail)


def test_a_close_that_fails_is_owed_and_the_dispatch_is_done(
    app: Celery, fault: Fault, work: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fault.set("batches.close:before")
    pending = Bus(app).batch([work.s(n) for n in range(15)]).on_queue("mine").then(work.s())
    with caplog.at_level(logging.WARNING, "celery_laravel"):
        batch = pending.dispatch()
    assert (batch.total_jobs, batch.pending_jobs, batch.cancelled) == (15, 15, False)
    assert "the broker keeps that until the store is back" in caplog.text
    (debt,) = debts_in(taken(app, "mine"))
    assert debt == Debt(batch.id, "Bus.batch", dispatch=DispatchEnd(batch.id, closes=True))
    fault.mend()
    runtime_of(app).store.batches.end_members(batch.id, range(15))
    runtime_of(app).debts.pay(debt)
    assert the_batch(app).finished
    (called,) = taken(app)
    assert called.headers["id"] == f"{batch.id}:then:0"


def test_the_debt_goes_where_the_workers_of_the_members_are(app: Celery, fault: Fault, work: Any) -> None:
    app.conf.task_routes = {"work": {"queue": "routed"}}
    fault.set("batches.close:before")
    Bus(app).batch([[work.si(), work.si()]]).dispatch()
    assert len(debts_in(taken(app, "routed"))) == 1


def test_a_close_that_neither_takes_is_an_error_that_says_that_all_was_sent(
    app: Celery, fault: Fault, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_broker(monkeypatch, app)
    fault.set("batches.close:before")
    with pytest.raises(BatchDispatchError, match=r"All 15 jobs .* Do not dispatch it again") as raised:
        Bus(app).batch([work.s(n) for n in range(15)]).dispatch()
    assert (raised.value.sent, raised.value.ending) == (15, "unclosed")
    fault.mend()
    assert counts(the_batch(app).close()) == (15, 0, 15)
    assert not runtime_of(app).store.batches.find(raised.value.batch_id).is_open  # type: ignore[union-attr]


def test_callbacks_that_the_store_is_not_told_of_fail_no_dispatch(app: Celery, fault: Fault, work: Any) -> None:
    fault.set("batches.mark_sent:before")
    batch = Bus(app).batch([]).then(work.s()).dispatch()
    assert batch.finished
    assert [message.headers["id"] for message in taken(app)] == [f"{batch.id}:then:0"]


def test_jobs_that_are_added_later_are_told_of_likewise(app: Celery, fault: Fault, work: Any) -> None:
    """The batch stays open, or closed, as it is: its own dispatch is another."""
    batch = Bus(app).batch([work.s()]).dispatch()
    taken(app)
    fault.set("batches.add:before", 2)
    with pytest.raises(BatchDispatchError) as raised:
        batch.add(work.s(n) for n in range(15))
    assert (raised.value.sent, raised.value.ending) == (10, "kept")
    (debt,) = debts_in(taken(app))
    fault.mend()
    runtime_of(app).debts.pay(debt)
    assert (counts(the_batch(app)), the_batch(app).cancelled) == ((12, 1, 11), True)


@pytest.mark.parametrize("breaks", [True, False], ids=["broker", "store"])
def test_where_neither_takes_that_a_later_adding_failed_the_batch_can_be_cancelled_by_hand(
    app: Celery, fault: Fault, work: Any, monkeypatch: pytest.MonkeyPatch, breaks: bool
) -> None:
    batch = Bus(app).batch([work.s()]).dispatch()
    no_broker(monkeypatch, app)
    if breaks:
        _break_second_slice(monkeypatch)
    fault.set("batches.find:before" if breaks else "batches.add:before", 1 if breaks else 2)
    told = r"close-batch \S+ --incomplete --unsent 12-12 --unsent 14-15`" if breaks else r"laravel cancel-batch \S+`"
    with pytest.raises(BatchDispatchError, match=told) as raised:
        batch.add(work.s(n) for n in range(15))
    assert raised.value.ending == "uncancelled"
    fault.mend()
    if breaks:
        after = the_batch(app).close(incomplete=True, unsent=raised.value.unsent)
        assert (counts(after), after.cancelled) == ((16, 3, 13), True)


def test_a_batch_that_finishes_between_two_slices_is_told_with_what_was_sent(app: Celery, work: Any) -> None:
    batch = Bus(app).batch([work.s()]).dispatch()
    store = runtime_of(app).store.batches

    def jobs() -> Any:
        yield from (work.s(n) for n in range(10))
        store.end_members(batch.id, range(11))
        yield work.s()

    with pytest.raises(BatchDispatchError, match="after 10 jobs") as raised:
        batch.add(jobs())
    assert isinstance(raised.value.__cause__, BatchFinishedError)


def test_a_batch_in_a_chain_waits_though_its_close_is_owed(app: Celery, fault: Fault, work: Any) -> None:
    signature = Bus(app).batch([work.si(n) for n in range(3)]).signature()
    task, data = app.tasks[signature.task], signature.kwargs["batch"]
    fault.set("batches.close:before")
    request = {"id": "step", "is_eager": False, "delivery_info": {"exchange": "", "routing_key": "steps"}}
    task.push_request(args=(), kwargs={"batch": data}, called_directly=False, **request)
    try:
        with pytest.raises(Retry, match="waits for its batch"):
            task(batch=data)
    finally:
        task.pop_request()
    (debt,) = debts_in(taken(app, "steps"))
    fault.mend()
    runtime_of(app).debts.pay(debt)
    record = runtime_of(app).store.batches.find(data["id"])
    assert record is not None
    assert (record.is_open, record.total_jobs) == (False, 3)


def test_a_batch_in_a_chain_whose_job_fails_is_cancelled_when_the_store_is_back(
    app: Celery, fault: Fault, work: Any
) -> None:
    signature = Bus(app).batch([work.si(n) for n in range(3)]).signature()
    task, data = app.tasks[signature.task], signature.kwargs["batch"]
    store = runtime_of(app).store.batches
    store.create(NewBatch(data["id"]))
    fault.set("batches.find:before")
    task.push_request(id="step", delivery_info={"exchange": "", "routing_key": "steps"})
    try:
        task.job_options.failed(task, OSError("x"), batch=data)
    finally:
        task.pop_request()
    (debt,) = debts_in(taken(app, "steps"))
    fault.mend()
    runtime_of(app).debts.pay(debt)
    assert the_batch(app).cancelled


def test_the_error_travels() -> None:
    error = pickle.loads(pickle.dumps(BatchDispatchError("b", 3, "open", ((1, 2),))))
    assert (error.batch_id, error.sent, error.ending, error.unsent) == ("b", 3, "open", ((1, 2),))
