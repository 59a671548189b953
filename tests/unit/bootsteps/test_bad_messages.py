"""Messages on which Celery stumbles are refused, and the worker goes on; a broker that fails is no such message."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import signals
from kombu.exceptions import OperationalError

from celery_laravel.bootsteps.bad_messages import BadMessages

if TYPE_CHECKING:
    from collections.abc import Callable


class Consumer:
    """Celery's consumer, as far as the step knows it; its handler raises what the message says."""

    connection_errors = (OSError, KeyError)  # as kombu's Redis transport has it

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


class Message(SimpleNamespace):
    def __init__(self, body: Any, **headers: Any) -> None:
        super().__init__(body=body, headers={"id": 1, **headers}, properties={}, rejected=0)

    def reject_log_error(self, logger: logging.Logger, errors: Any) -> None:
        self.rejected += 1


@pytest.fixture
def handle() -> Callable[[Any], Any]:
    consumer = Consumer()
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
    [{"timelimit": 5}, {"timelimit": [1, 2, 3]}, {"timelimit": ["1", None]}, {"stamped_headers": [[]]}, {"stamps": 1}],
)
def test_what_would_be_stumbled_on_later_is_refused_at_once(
    handle: Callable[[Any], Any], headers: dict[str, Any]
) -> None:
    message = Message("good", **headers)
    handle(message)
    assert message.rejected == 1


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
