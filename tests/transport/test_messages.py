"""Publishing, reserving and settling, on one channel or several."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Exchange, Producer, Queue

from celery_laravel.testing.processes import wait_until
from tests.transport.conftest import hidden_until, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.transport.conftest import Clock


def put(channel: Any, body: Any, queue: str = "jobs", **options: Any) -> None:
    Producer(channel).publish(body, routing_key=queue, **options)


def get(channel: Any, queue: str = "jobs", **options: Any) -> Any:
    return channel.basic_get(queue, **options)


def bodies(channel: Any, queue: str = "jobs") -> list[Any]:
    return [message.payload for message in iter(lambda: get(channel, queue, no_ack=True), None)]


def eta(clock: Clock, seconds: float) -> dict[str, str]:
    return {"eta": datetime.fromtimestamp(clock.time + seconds, tz=timezone.utc).isoformat()}


def ready(channel: Any, queue: str = "jobs") -> int:
    return int(channel.queue_declare(queue, passive=True).message_count)


@pytest.fixture
def channel(connect: Callable[..., Connection]) -> Any:
    channel = connect().channel()
    channel.queue_declare("jobs")
    return channel


def test_messages_come_in_the_order_they_were_sent(channel: Any) -> None:
    for number in range(50):
        put(channel, number)
    assert bodies(channel) == list(range(50))


def test_a_message_comes_as_it_was_sent(channel: Any) -> None:
    put(
        channel,
        {"text": "żółć", "none": None},
        headers={"id": "1", "deep": {"list": [1, 2]}},
        priority=4,
        correlation_id="abc",
        reply_to="there",
        compression="zlib",
    )
    message = get(channel)
    assert message.payload == {"text": "żółć", "none": None}
    assert message.headers == {"id": "1", "deep": {"list": [1, 2]}, "compression": "application/x-gzip"}
    assert message.properties["priority"] == 4
    assert message.properties["correlation_id"] == "abc"
    assert message.delivery_info == {"exchange": "", "routing_key": "jobs"}


def test_binary_bodies_come_back_byte_by_byte(channel: Any) -> None:
    everything = bytes(range(256))
    put(channel, everything, content_type="application/data", content_encoding="binary")
    assert get(channel).body == everything


def test_higher_priorities_come_first_and_in_order_within_one(channel: Any) -> None:
    for number, priority in enumerate([0, 9, 5, 9, 0, 5, 42, -3]):
        put(channel, number, priority=priority)
    assert bodies(channel) == [1, 3, 6, 2, 5, 0, 4, 7]


def test_a_reserved_message_is_nobody_elses(connect: Callable[..., Connection], channel: Any) -> None:
    put(channel, "once")
    assert get(channel).payload == "once"
    other = connect().channel()
    assert get(other) is None
    assert ready(other) == 0


def test_an_acknowledged_message_is_gone_and_acknowledging_twice_changes_nothing(clock: Clock, channel: Any) -> None:
    put(channel, "done")
    message = get(channel)
    message.ack()
    channel.basic_ack(message.delivery_tag)
    clock.advance(1e6)
    assert get(channel) is None


def test_a_rejected_message_is_gone(clock: Clock, channel: Any) -> None:
    put(channel, "bad")
    get(channel).reject()
    clock.advance(1e6)
    assert get(channel) is None


def test_a_requeued_message_comes_again_before_those_behind_it_and_says_so(channel: Any) -> None:
    for body in "ab":
        put(channel, body)
    first = get(channel)
    assert "redelivered" not in first.headers
    assert "x-delivery-count" not in first.headers
    for count in (1, 2):
        first.requeue()
        first = get(channel)
        assert first.payload == "a"
        assert first.headers["redelivered"] is True
        assert first.headers["x-delivery-count"] == count
        assert first.delivery_info["redelivered"] is True


def test_what_a_message_carries_of_an_earlier_life_is_not_believed(channel: Any) -> None:
    put(channel, "copy", headers={"redelivered": True, "x-delivery-count": 7})
    assert get(channel).headers == {}


def test_a_message_whose_worker_is_gone_comes_back_after_the_visibility_timeout(
    clock: Clock, connect: Callable[..., Connection]
) -> None:
    dead, living = (connect(visibility_timeout=30).channel() for _ in range(2))
    put(dead, "job")
    assert get(dead).payload == "job"
    clock.advance(29.9)
    assert get(living) is None
    for count in (1, 2):
        clock.advance(30.1)
        message = get(living)
        assert message.headers["x-delivery-count"] == count


def test_a_late_acknowledgement_removes_a_message_that_has_been_delivered_again(
    clock: Clock, connect: Callable[..., Connection]
) -> None:
    slow, quick = (connect(visibility_timeout=30).channel() for _ in range(2))
    put(slow, "job")
    message = get(slow)
    clock.advance(31)
    assert get(quick).payload == "job"
    message.ack()
    clock.advance(31)
    assert get(quick) is None


def test_a_late_requeue_does_not_take_a_message_from_its_new_holder(
    clock: Clock, connect: Callable[..., Connection]
) -> None:
    slow, quick = (connect(visibility_timeout=30).channel() for _ in range(2))
    put(slow, "job")
    message = get(slow)
    clock.advance(31)
    get(quick)
    message.requeue()
    assert get(slow) is None


def test_a_lease_that_is_renewed_does_not_run_out(clock: Clock, connect: Callable[..., Connection]) -> None:
    holder, other = (connect(visibility_timeout=30).channel() for _ in range(2))
    put(holder, "long")
    get(holder)
    for _ in range(5):
        clock.advance(20)
        holder.renew()
        assert get(other) is None


def test_the_process_renews_its_leases_by_itself(connect: Callable[..., Connection]) -> None:
    holder, other = (connect(visibility_timeout=0.6).channel() for _ in range(2))
    put(holder, "long")
    get(holder)

    def until() -> float:
        return hidden_until(other, "jobs")

    first = until()
    wait_until(lambda: until() > first + 1, timeout=10)
    assert get(other) is None


def test_closing_a_channel_puts_back_what_it_holds_without_counting_the_delivery(
    connect: Callable[..., Connection], channel: Any
) -> None:
    for number in range(3):
        put(channel, number)
    holder = connect().channel()
    for _ in range(2):
        get(holder)
    holder.close()
    message = get(channel)
    assert message.payload == 0
    assert message.headers == {"redelivered": True}


def test_recovering_puts_back_what_is_held(channel: Any) -> None:
    put(channel, 1)
    get(channel)
    channel.basic_recover(requeue=True)
    assert get(channel).payload == 1


def test_a_delayed_message_waits_for_its_eta(clock: Clock, channel: Any) -> None:
    put(channel, "later", headers=eta(clock, 60))
    put(channel, "now")
    assert ready(channel) == 1
    assert bodies(channel) == ["now"]
    clock.advance(59)
    assert get(channel) is None
    clock.advance(2)
    assert get(channel).payload == "later"


def test_a_due_message_joins_behind_those_that_were_ready(clock: Clock, channel: Any) -> None:
    put(channel, "delayed", headers=eta(clock, 10))
    clock.advance(5)
    put(channel, "before")
    clock.advance(10)
    put(channel, "after")
    assert bodies(channel) == ["before", "delayed", "after"]


def test_an_eta_in_another_zone_is_the_same_instant(clock: Clock, channel: Any) -> None:
    zone = timezone(timedelta(hours=-5))
    put(channel, 1, headers={"eta": datetime.fromtimestamp(clock.time + 10, tz=zone).isoformat()})
    clock.advance(9)
    assert get(channel) is None
    clock.advance(2)
    assert get(channel).payload == 1


@pytest.mark.parametrize("given", ["tomorrow", 17, "2999-99-99T00:00:00"])
def test_an_eta_that_cannot_be_read_delays_nothing(channel: Any, given: Any) -> None:
    put(channel, "now", headers={"eta": given})
    assert get(channel).payload == "now"


def test_an_eta_without_a_zone_is_never_delivered_late(clock: Clock, channel: Any) -> None:
    naive = datetime.fromtimestamp(clock.time, tz=timezone.utc).replace(tzinfo=None) + timedelta(hours=13)
    put(channel, 1, headers={"eta": naive.isoformat()})
    assert get(channel).payload == 1


def test_a_delayed_message_is_found_by_its_jobs_id_and_changed_where_it_waits(
    clock: Clock, connect: Callable[..., Connection], channel: Any
) -> None:
    def change(text: str) -> str:
        data = json.loads(text)
        return json.dumps({**data, "headers": {**data["headers"], "changed": True}})

    transport = connect().channel().connection
    for job_id in ("one", "two", "two", "x" * 300, "nul\x00", "lone\udc80"):
        put(channel, job_id.encode("utf-8", "replace").hex(), headers={"id": job_id, **eta(clock, 60)})
    put(channel, "ready", headers={"id": "one"})
    headers = {"id": "bulk", **eta(clock, 60)}
    bulk = {"body": "", "headers": headers, "properties": {"delivery_info": {}}}
    texts = [json.dumps({**bulk, "headers": {**headers, "id": f"bulk{number}"}}) for number in range(2)]
    channel.put_many([("jobs", bulk, text) for text in texts])

    found = {job_id: transport.delayed.change(job_id, change) for job_id in ("one", "two", "bulk", "bulk1", "none")}
    assert found == {"one": 1, "two": 2, "bulk": 0, "bulk1": 1, "none": 0}
    assert ready(channel) == 5
    messages = [get(channel) for _ in range(5)]
    ids = [(message.headers["id"], message.headers.get("changed")) for message in messages]
    assert sorted(ids, key=str) == [("bulk1", True), ("one", None), ("one", True), ("two", True), ("two", True)]
    assert transport.delayed.change("two", change) == 0, "a worker holds them"
    clock.advance(61)
    assert ready(channel) == 4


def test_a_change_that_raises_leaves_a_delayed_message_as_it_was(clock: Clock, channel: Any) -> None:
    put(channel, "later", headers={"id": "one", **eta(clock, 60)})
    with pytest.raises(KeyError):
        channel.connection.delayed.change("one", {}.__getitem__)
    assert ready(channel) == 0
    clock.advance(61)
    assert get(channel).payload == "later"


def test_the_next_due_message_is_known(clock: Clock, channel: Any) -> None:
    assert channel.messages.next_due(["jobs"]) is None
    put(channel, 1, headers=eta(clock, 60), priority=3)
    put(channel, 2, headers=eta(clock, 40), queue="other")
    put(channel, 3)
    assert channel.messages.next_due(["jobs"]) == 60
    assert channel.messages.next_due(["jobs", "other"]) == 40


def test_purging_removes_ready_and_delayed_messages_but_none_that_is_worked_on(clock: Clock, channel: Any) -> None:
    for number in range(4):
        put(channel, number)
    put(channel, "later", headers=eta(clock, 60))
    held = get(channel)
    put(channel, "elsewhere", queue="other")
    assert channel.queue_purge("jobs") == 4
    held.requeue()
    assert bodies(channel) == [0]
    assert bodies(channel, "other") == ["elsewhere"]


def test_a_message_that_cannot_be_read_is_set_aside_and_the_next_one_comes(channel: Any) -> None:
    good = {"body": "not base64!", "headers": {}, "properties": {"body_encoding": "base64", "delivery_info": {}}}
    from kombu.utils.json import dumps

    damaged = ["{", "[]", "{}", '{"headers": 1, "properties": {}}', dumps(good)]
    row = {"queue": "jobs", "priority": 0, "due": 0.0}
    channel.messages.publish([{**row, "payload": payload} for payload in damaged])
    put(channel, "good")
    seen: list[Any] = []

    def see(body: Any, message: Any) -> None:
        seen.append(body)
        message.ack()

    with channel.connection.client.Consumer([Queue("jobs")], channel=channel, callbacks=[see]):
        wait_until(lambda: drain(channel) and seen == ["good"])
    assert rows_of(channel, "jobs.unreadable") == len(damaged)


def drain(channel: Any) -> bool:
    with suppress(TimeoutError):
        channel.connection.client.drain_events(timeout=0.1)
    return True


def test_many_threads_publish_and_consume_through_one_process(connect: Callable[..., Connection]) -> None:
    connect().channel().queue_declare("jobs")
    taken: list[int] = []

    def publish(first: int) -> None:
        with connect() as connection:
            producer = connection.Producer()
            for number in range(first, first + 50):
                producer.publish(number, routing_key="jobs")

    def consume() -> None:
        channel = connect().channel()
        while len(taken) < 400:
            if (message := get(channel)) is not None:
                taken.append(message.payload)
                message.ack()

    threads = [threading.Thread(target=publish, args=(50 * number,)) for number in range(8)]
    threads += [threading.Thread(target=consume) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == list(range(400))


def test_a_batch_is_stored_as_a_whole_or_not_at_all(connect: Callable[..., Connection], channel: Any) -> None:
    producer = Producer(channel)
    if not hasattr(producer, "batch"):
        pytest.skip("Producer.batch() came with kombu 5.7")
    assert producer.supports_batch_publish
    other = connect().channel()
    with producer.batch():
        for number in range(10):
            producer.publish(number, routing_key="jobs")
        assert ready(other) == 0
    assert ready(other) == 10
    with suppress(KeyError), producer.batch():
        producer.publish(11, routing_key="jobs")
        raise KeyError
    assert bodies(other) == list(range(10))


def test_a_batch_is_stored_in_parts_of_its_size_and_reaches_every_bound_queue(channel: Any) -> None:
    producer = Producer(channel)
    if not hasattr(producer, "batch"):
        pytest.skip("Producer.batch() came with kombu 5.7")
    news = Exchange("news", "fanout")
    for name in ("jobs", "other"):
        Queue(name, news)(channel).declare()
    with producer.batch(max_size=4) as batch:
        for number in range(3):
            producer.publish(number, exchange="news", routing_key="")
        assert ready(channel) == 2
        batch.flush()
        assert ready(channel) == 3
    assert bodies(channel, "other") == [0, 1, 2]
