"""Messages on which Celery stumbles are refused, and the worker goes on; a broker that fails is no such message."""

from __future__ import annotations

import logging
from pickle import PicklingError
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import signals
from kombu.exceptions import MessageStateError, OperationalError

from celery_laravel.bootsteps.bad_messages import BadMessages

if TYPE_CHECKING:
    from collections.abc import Callable


class Consumer:
    """Celery's consumer, as far as the step knows it; its handler raises what the message says."""

    connection_errors = (OSError, KeyError)  # as kombu's Redis transport has it

    def __init__(self) -> None:
        self.controller: Any = Controller()

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        len(message.body)  # as Celery does, to show it
        message.reject_log_error(logging.getLogger(), self.connection_errors)
        signals.task_rejected.send(sender=self, message=message, exc=exc)

    def create_task_handler(self) -> Callable[[Any], Any]:
        def handle(message: Any) -> str:
            if "error" in message.headers:
                raise message.headers["error"]
            return "handled"

        return handle


class Controller:
    """Celery's worker, as far as the step knows it; handing on a request raises what its message says."""

    def __init__(self) -> None:
        self.released = 0
        self.pool = SimpleNamespace(_pool=SimpleNamespace(_cache={}))

    def _process_task(self, request: Any) -> None:
        result = SimpleNamespace(correlation_id=request.id, ready=lambda: False)
        self.pool._pool._cache[1] = result
        if "error" in request.message.headers:
            raise request.message.headers["error"]

    def _quick_release(self) -> None:
        self.released += 1


class Request:
    id = 1

    def __init__(self, message: Any) -> None:
        self.message = message


class Message(SimpleNamespace):
    def __init__(self, body: Any, **headers: Any) -> None:
        super().__init__(body=body, payload=body, headers={"id": 1, **headers}, properties={}, rejected=0)

    @property
    def acknowledged(self) -> bool:
        return bool(self.rejected)

    def reject_log_error(self, logger: logging.Logger, errors: Any) -> None:
        if self.acknowledged:
            raise MessageStateError
        self.rejected += 1


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


@pytest.fixture
def handle(consumer: Consumer) -> Callable[[Any], Any]:
    step = BadMessages(consumer)
    step.start(consumer)
    step.start(consumer)  # as after a lost connection
    return consumer.create_task_handler()


@pytest.mark.parametrize("body", ["text", None])
@pytest.mark.parametrize("error", [KeyError("id"), TypeError(), ValueError(), AttributeError(), OverflowError()])
def test_a_message_that_cannot_be_handled_is_refused_for_good(
    handle: Callable[[Any], Any], caplog: pytest.LogCaptureFixture, error: Exception, body: Any
) -> None:
    told = []

    def receive(message: Any, exc: Any, **_: Any) -> None:
        told.append((message, exc))

    signals.task_rejected.connect(receive)
    try:
        message = Message(body, error=error)
        handle(message)
    finally:
        signals.task_rejected.disconnect(receive)
    assert message.rejected == 1
    assert told == [(message, error)]
    assert caplog.records[0].levelno == logging.CRITICAL


@pytest.mark.parametrize(
    "headers",
    [
        {"timelimit": 5},
        {"timelimit": [1, 2, 3]},
        {"timelimit": ["1", None]},
        {"stamped_headers": [[]]},
        {"stamps": 1},
        {"shadow": [1]},
    ],
)
def test_what_would_be_stumbled_on_later_is_refused_at_once(
    handle: Callable[[Any], Any], headers: dict[str, Any]
) -> None:
    message = Message("good", **headers)
    handle(message)
    assert message.rejected == 1


def test_a_message_that_was_dropped_before_is_not_refused_again(handle: Callable[[Any], Any]) -> None:
    message = Message("body", error=TypeError("its id is a mapping"))
    message.rejected = 1
    handle(message)
    assert message.rejected == 1


SIGNATURE = {"task": "next", "options": {"task_id": "x"}}


@pytest.mark.parametrize(
    "follows",
    [
        ["list"],
        {"chain": [1]},
        {"chain": "next"},
        {"callbacks": [{"task": 1}]},
        {"errbacks": {"task": "next"}},
        {"chord": [SIGNATURE]},
        {"chain": [{**SIGNATURE, "options": None}]},
    ],
)
def test_what_could_not_follow_a_job_is_refused_at_once(handle: Callable[[Any], Any], follows: Any) -> None:
    """Celery would stumble on it when the job has ended, and leave its message unacknowledged for ever."""
    message = Message([[], {}, follows])
    handle(message)
    assert message.rejected == 1


@pytest.mark.parametrize("follows", [None, {}, {"chain": [SIGNATURE], "callbacks": None, "chord": SIGNATURE}])
def test_what_can_follow_a_job_is_let_through(handle: Callable[[Any], Any], follows: Any) -> None:
    assert handle(Message([[], {}, follows])) == "handled"


@pytest.mark.parametrize(
    "headers",
    [{}, {"timelimit": [None, 1.5]}, {"timelimit": None}, {"stamped_headers": ["a"], "stamps": {"a": [1]}}],
)
def test_other_messages_are_handled(handle: Callable[[Any], Any], headers: dict[str, Any]) -> None:
    message = Message("good", **headers)
    assert handle(message) == "handled"
    assert message.rejected == 0


@pytest.mark.parametrize("error", [ConnectionResetError(), OperationalError(), MemoryError()])
def test_what_is_not_the_messages_fault_is_raised(handle: Callable[[Any], Any], error: Exception) -> None:
    message = Message("good", error=error)
    with pytest.raises(type(error)):
        handle(message)
    assert message.rejected == 0


@pytest.mark.usefixtures("handle")
@pytest.mark.parametrize("error", [TypeError(), PicklingError()])
def test_what_cannot_go_to_a_process_of_the_pool_is_refused_and_makes_room(
    consumer: Consumer, error: Exception
) -> None:
    message = Message("body", error=error)
    consumer.controller._process_task(Request(message))
    assert message.rejected == 1
    assert consumer.controller.released == 1
    assert consumer.controller.pool._pool._cache == {}, "the pool waits for nothing"


@pytest.mark.usefixtures("handle")
def test_what_can_go_to_a_process_goes(consumer: Consumer) -> None:
    message = Message("body")
    consumer.controller._process_task(Request(message))
    assert (message.rejected, consumer.controller.released) == (0, 0)
    assert len(consumer.controller.pool._pool._cache) == 1
