"""Delayed messages as they are looked at where they wait."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.transport.conftest import Clock


@pytest.fixture
def channel(connect: Callable[..., Connection]) -> Any:
    channel = connect().channel()
    for queue in ("jobs", "other"):
        channel.queue_declare(queue)
    return channel


def put(channel: Any, job_id: str | None, due: float | None, queue: str = "jobs") -> None:
    headers: dict[str, Any] = {} if job_id is None else {"id": job_id}
    if due is not None:
        headers["eta"] = datetime.fromtimestamp(due, tz=timezone.utc).isoformat()
    body = channel.prepare_message("x", headers=headers)
    channel.basic_publish(body, exchange="", routing_key=queue)


def ids(found: Any) -> list[str]:
    return [json.loads(message.payload)["headers"]["id"] for message in found]


def test_what_is_delayed_is_found_first_due_first(clock: Clock, channel: Any) -> None:
    delayed = channel.connection.delayed
    assert (delayed.all(), delayed.count()) == ([], 0)
    for job_id, seconds, queue in (("late", 60, "jobs"), ("soon", 20, "other"), ("middle", 40, "jobs")):
        put(channel, job_id, clock.time + seconds, queue)
    put(channel, "at once", None)
    put(channel, None, clock.time + 10)  # no job's
    put(channel, "due", clock.time - 10)
    found = delayed.all()
    assert ids(found) == ["due", "soon", "middle", "late"]
    assert [(message.queue, message.due - clock.time) for message in found[1:]] == [
        ("other", 20),
        ("jobs", 40),
        ("jobs", 60),
    ]
    assert ids(delayed.all(limit=2)) == ["due", "soon"]
    assert ids(delayed.all(queue="jobs", limit=2)) == ["due", "middle"]
    assert ids(delayed.all(task_id="late")) == ["late"]
    assert (delayed.count(), delayed.count(queue="other"), delayed.count(queue="none")) == (4, 1, 0)


def test_what_a_worker_holds_is_not_among_what_is_delayed(clock: Clock, channel: Any) -> None:
    delayed = channel.connection.delayed
    put(channel, "one", clock.time + 10)
    clock.advance(11)
    message = channel.basic_get("jobs")
    assert (delayed.all(), delayed.count()) == ([], 0)
    channel.basic_reject(message.delivery_tag, requeue=True)
    assert ids(delayed.all()) == ["one"]


def test_a_change_has_a_message_due_at_once(clock: Clock, channel: Any) -> None:
    delayed = channel.connection.delayed
    put(channel, "early", clock.time + 60)
    put(channel, "changed", clock.time + 90)
    clock.advance(5)
    assert delayed.change("changed", str) == 1
    assert [message.due - clock.time for message in delayed.all()] == [0, 55]
    assert ids(delayed.all()) == ["changed", "early"]
