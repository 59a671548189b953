"""A job whose code has succeeded and whose next step cannot be sent has failed, whatever becomes of its result."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from amqp.exceptions import ConnectionForced, PreconditionFailed
from celery.app.trace import build_tracer
from celery.utils import uuid
from kombu import Producer
from kombu.exceptions import OperationalError

from celery_laravel import Bus, StoreUnavailableError, signals
from celery_laravel.dispatch import following

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

pytestmark = [pytest.mark.matrix, pytest.mark.filterwarnings("ignore:Exception raised outside body:RuntimeWarning")]

ENDS = ("job_processed", "job_failed")


class Ends:
    """Runs a job as a worker does, and what it was said to have ended in."""

    def __init__(self, app: Celery) -> None:
        self.app, self.said, self.raised = app, [], []  # type: ignore[var-annotated]

        @app.task(name="job", tries=3, failed=lambda _, error: self.raised.append(error))
        def job() -> str:
            return "x"

        @app.task(name="after")
        def after(value: Any) -> None: ...

    def run(self, *following: Any, **more: Any) -> str:
        task_id: str = uuid()
        request = {"id": task_id, "task": "job", "is_eager": False, "delivery_info": {}}
        request |= {"chain": [dict(step.set(task_id=uuid())) for step in following], **more}
        trace = build_tracer("job", self.app.tasks["job"], app=self.app, hostname="here")
        with contextlib.suppress(ConnectionError):  # which the caller of the tracer, in a worker, has to bear
            trace(task_id, (), {}, request)
        return task_id


@pytest.fixture
def ends(app: Celery) -> Iterator[Ends]:
    ends = Ends(app)
    receivers = {name: lambda name=name, **_: ends.said.append(name) for name in ENDS}
    for name, receive in receivers.items():
        getattr(signals, name).connect(receive, weak=False)
    yield ends
    for name, receive in receivers.items():
        getattr(signals, name).disconnect(receive)


@pytest.fixture
def no_backend(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which the result backend does not answer."""

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no backend")

    return lambda: monkeypatch.setattr(app.backend, "store_result", fail)


def test_a_next_step_whose_arguments_do_not_fit(ends: Ends) -> None:
    task_id = ends.run(ends.app.signature("after", args=("one too many",)))
    assert ends.said == ["job_failed"]
    assert [type(error) for error in ends.raised] == [TypeError]
    assert Bus(ends.app).failed.find(task_id).exception.startswith("TypeError: after() takes")


@pytest.mark.parametrize("error", [OperationalError("no broker"), StoreUnavailableError("redis://gone")], ids=repr)
@pytest.mark.parametrize("has_backend", [True, False])
def test_a_broker_that_does_not_answer(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, no_backend: Any, error: Exception, has_backend: bool
) -> None:
    """Celery says so to nobody where its result backend does not answer either."""

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    if not has_backend:
        no_backend()
    monkeypatch.setattr(ends.app.amqp, "send_task_message", refuse)
    ends.run(ends.app.signature("after"))
    assert ends.said == ["job_failed"]
    assert ends.raised == [error]


def test_links_are_what_follows_too(ends: Ends) -> None:
    ends.run(callbacks=[dict(ends.app.signature("after", args=("one too many",)))])
    assert ends.said == ["job_failed"]


def test_a_result_that_cannot_be_stored_is_no_failure_of_the_job(ends: Ends, no_backend: Any) -> None:
    """What follows was sent before, and runs."""
    no_backend()
    ends.run(ends.app.signature("after"))
    assert (ends.said, ends.raised) == (["job_processed"], [])
    assert ends.app.connection_for_write().channel().basic_get(ends.app.main).headers["task"] == "after"


def test_a_handler_that_raises_is_no_failure_of_the_job(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_it(*_: Any) -> None:
        raise OSError("of the user's")

    monkeypatch.setattr(ends.app.tasks["job"], "on_success", raise_it)
    ends.run(ends.app.signature("after"))
    assert (ends.said, ends.raised) == (["job_processed"], [])


def test_a_job_that_runs_eagerly_while_an_exception_is_handled_has_not_raised_it(ends: Ends) -> None:
    try:
        ends.app.tasks["after"].apply_async(("one", "too many"))
    except TypeError:
        assert ends.app.tasks["job"].apply().get() == "x"
    assert (ends.said, ends.raised) == (["job_processed"], [])


class Broker:
    """What takes messages, or not; and the pauses that a job makes in which it does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: list[Exception] = []
        self.taken: list[str] = []
        self.pauses: list[float] = []
        publish = Producer.publish

        def publish_if_there(producer: Any, body: Any, **options: Any) -> Any:
            if self.errors:
                error = self.errors.pop(0)
                raise OperationalError(str(error)) from error
            self.taken.append(options["headers"]["task"])
            return publish(producer, body, **options)

        monkeypatch.setattr(Producer, "publish", publish_if_there)
        times = SimpleNamespace(sleep=self.pauses.append, monotonic=lambda: sum(self.pauses))
        monkeypatch.setattr(following, "time", times)


@pytest.fixture
def broker(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Broker:
    app.conf.task_publish_retry_policy = {"max_retries": 0}  # or Celery tries by itself, as many times
    return Broker(monkeypatch)


def test_what_follows_waits_for_a_broker_that_is_away(ends: Ends, broker: Broker) -> None:
    broker.errors = [ConnectionForced("no broker")] * 5
    ends.run(ends.app.signature("after"), callbacks=[dict(ends.app.signature("after"))])
    assert (ends.said, ends.raised, broker.taken) == (["job_processed"], [], ["after", "after"])
    assert len(broker.pauses) == 5


def test_a_broker_that_stays_away_is_not_waited_for_without_end(ends: Ends, broker: Broker) -> None:
    broker.errors = [ConnectionForced("no broker")] * 5000
    ends.run(ends.app.signature("after"))
    assert (ends.said, broker.taken) == (["job_failed"], [])
    assert following.PATIENCE < sum(broker.pauses) < following.PATIENCE + 5


@pytest.mark.parametrize(
    "error", [ValueError("no such thing"), PreconditionFailed("declared in another way")], ids=repr
)
def test_what_no_waiting_mends_is_not_waited_for(ends: Ends, broker: Broker, error: Exception) -> None:
    broker.errors = [error]
    ends.run(ends.app.signature("after"))
    assert (ends.said, broker.pauses) == (["job_failed"], [])


def test_one_who_wants_no_retries_has_none(ends: Ends, broker: Broker) -> None:
    ends.app.conf.task_publish_retry = False
    broker.errors = [ConnectionForced("no broker")]
    ends.run(ends.app.signature("after"))
    assert (ends.said, broker.pauses) == (["job_failed"], [])


def test_what_a_job_dispatches_itself_is_its_own_affair(
    ends: Ends, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may want to know, and what comes of its code is not known yet."""

    monkeypatch.setattr(ends.app.tasks["job"], "run", lambda: ends.app.tasks["after"].delay(1))
    broker.errors = [ConnectionForced("no broker")]
    ends.run()
    assert (ends.said, broker.pauses, broker.taken) == ([], [], ["job"]), "it has another try"
