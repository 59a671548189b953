"""Messages of SQS, whose transport does not say that one has come before, but how often."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.trace import build_tracer

from celery_laravel import Bus
from celery_laravel.worker.executor import MAX_STARTS
from celery_laravel.worker.request import JobRequest

if TYPE_CHECKING:
    from celery import Celery

pytestmark = pytest.mark.matrix


def taken(app: Celery) -> Any:
    message = app.connection_for_write().channel().basic_get(app.conf.task_default_queue, no_ack=True)
    assert message is not None
    return message


def received(app: Celery, message: Any, sqs_message: Any) -> JobRequest:
    """The request that a worker's parent makes of a message as SQS delivers it."""
    info = {**message.delivery_info, "sqs_message": sqs_message}
    parts = {
        name: getattr(message, name) for name in ("headers", "body", "content_type", "content_encoding", "payload")
    }
    sqs = SimpleNamespace(**parts, delivery_info=info, properties={**message.properties, "delivery_info": info})
    return JobRequest(sqs, app=app, task=app.tasks[message.headers["task"]])


def times(count: int) -> dict[str, Any]:
    return {"Attributes": {"ApproximateReceiveCount": str(count)}}


@pytest.mark.parametrize(
    ("sqs_message", "came_again"), [(times(1), False), (times(2), True), ({}, False), (None, False), (times(0), False)]
)
def test_one_that_was_received_more_than_once_has_come_before(app: Celery, sqs_message: Any, came_again: bool) -> None:
    @app.task(name="job", tries=2)
    def job() -> None: ...

    job.delay()
    request = received(app, taken(app), sqs_message)
    assert request.request_dict["delivery_info"]["redelivered"] is came_again
    assert request.delivery_info["redelivered"] is False, "Celery goes by what its transport says"


def test_a_member_that_declares_no_limit_and_kills_its_worker_each_time_comes_to_an_end(app: Celery) -> None:
    ran: list[int] = []

    @app.task(name="job")
    def job() -> None:
        ran.append(1)
        raise SystemExit

    batch = Bus(app).batch([job.si()]).dispatch()
    message = taken(app)
    for count in range(1, MAX_STARTS + 2):
        request = received(app, message, times(count))
        details = {**request.request_dict, "headers": request.request_dict}
        trace = build_tracer("job", job, app=app, hostname="here")
        try:
            trace(request.id, (), {}, details)
        except SystemExit:
            continue
    assert len(ran) == MAX_STARTS
    assert (batch.fresh().failed_jobs, batch.fresh().pending_jobs) == (1, 0)
