"""What programs that speak to kombu expect of any broker of its virtual kind; each broker's suite asks it."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from kombu.exceptions import ChannelError, MessageStateError, NotBoundError, OperationalError
from kombu.transport.virtual import NotEquivalentError

if TYPE_CHECKING:
    from collections.abc import Callable

    Connect = Callable[..., Connection]


def send(connection: Connection, *bodies: Any, queue: str = "jobs", **options: Any) -> None:
    producer = connection.Producer()
    for body in bodies:
        producer.publish(body, routing_key=queue, **options)


def bodies(connection: Connection, queue: str) -> list[Any]:
    found = iter(lambda: connection.default_channel.basic_get(queue, no_ack=True), None)
    return [message.payload for message in found]


def test_an_exchange_is_what_it_was_declared_as(connect: Connect) -> None:
    channel = connect().default_channel
    with pytest.raises(ChannelError):
        channel.exchange_declare("shop", "direct", passive=True)
    for _ in range(2):
        channel.exchange_declare("shop", "direct", durable=True)
    channel.exchange_declare("shop", passive=True)
    with pytest.raises(NotEquivalentError):
        channel.exchange_declare("shop", "fanout", durable=True)
    channel.exchange_delete("shop")
    with pytest.raises(ChannelError):
        channel.exchange_declare("shop", passive=True)


def test_a_queue_that_was_never_declared_is_not_found_and_empty(connect: Connect) -> None:
    channel = connect().default_channel
    with pytest.raises(ChannelError, match="NOT_FOUND"):
        channel.queue_declare("nowhere", passive=True)
    assert channel.basic_get("nowhere") is None
    assert channel.queue_purge("nowhere") == 0
    channel.queue_delete("nowhere")


def test_queues_are_counted_purged_and_kept_if_not_empty(connect: Connect) -> None:
    connection = connect()
    channel = connection.default_channel
    queue = Queue("jobs", Exchange("shop"), routing_key="new")(channel)
    assert queue.declare() == "jobs"
    connection.Producer().publish("a", exchange="shop", routing_key="new", priority=0)
    connection.Producer().publish("b", exchange="shop", routing_key="new", priority=9)
    assert channel.queue_declare("jobs", passive=True).message_count == 2
    queue.delete(if_empty=True)
    assert channel.queue_declare("jobs", passive=True).message_count == 2
    assert queue.purge() == 2
    queue.delete(if_empty=True)
    connection.Producer().publish("c", exchange="shop", routing_key="new")
    assert channel.basic_get("jobs") is None, "it is bound no more"


def test_what_no_queue_is_bound_for_is_dropped_or_goes_where_the_option_says(connect: Connect) -> None:
    connection = connect()
    Queue("jobs", Exchange("shop"), routing_key="new")(connection.default_channel).declare()
    connection.Producer().publish("lost", exchange="shop", routing_key="other")
    assert bodies(connection, "jobs") == []
    kept = connect(deadletter_queue="undelivered")
    with pytest.warns(UserWarning, match="could not be delivered"):
        kept.Producer().publish("kept", exchange="shop", routing_key="other")
    assert bodies(kept, "undelivered") == ["kept"]


def test_each_delivery_has_a_tag_of_its_own(connect: Connect) -> None:
    first, second = connect(), connect()
    send(first, "a", "b", "c")
    messages = [one.default_channel.basic_get("jobs") for one in (first, second, first)]
    assert len({message.delivery_tag for message in messages}) == 3
    for message in messages:
        message.ack()
        with pytest.raises(MessageStateError):
            message.ack()


def test_a_cancelled_consumer_gets_nothing_and_another_does(connect: Connect) -> None:
    connection = connect()
    channel = connection.default_channel
    channel.basic_cancel("unknown")
    first: list[Any] = []
    second: list[Any] = []
    consumer = Consumer(channel, [Queue("jobs")], on_message=first.append)
    consumer.consume()
    assert consumer.consuming_from("jobs")
    consumer.cancel()
    send(connection, "a")
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.1)
    with Consumer(connection.channel(), [Queue("jobs")], on_message=second.append):
        connection.drain_events(timeout=5)
    assert first == []
    assert [message.payload for message in second] == ["a"]


def test_channels_of_a_connection_are_numbered_close_once_and_give_back_what_they_hold(connect: Connect) -> None:
    connection = connect()
    with connection.channel() as one, connection.channel() as other:
        assert one.channel_id != other.channel_id
        send(connection, "a")
        assert one.basic_get("jobs").payload == "a"
        assert other.basic_get("jobs") is None
        one.close()
        one.close()
        assert other.basic_get("jobs").payload == "a"


def test_the_limit_of_a_consumer_is_changed_while_it_consumes(connect: Connect) -> None:
    connection = connect()
    held: list[Any] = []
    with Consumer(connection.default_channel, [Queue("jobs")], on_message=held.append, prefetch_count=1) as consumer:
        send(connection, "a", "b", "c")
        for limit in (1, 2, 0):
            consumer.qos(prefetch_count=limit)
            connection.drain_events(timeout=5)
        assert [message.payload for message in held] == ["a", "b", "c"]
        consumer.recover(requeue=True)
        connection.drain_events(timeout=5)
        assert held[-1].headers["redelivered"]
    with pytest.raises(NotImplementedError):
        connection.default_channel.basic_recover(requeue=False)


def test_simple_queues_and_buffers_work(connect: Connect) -> None:
    connection = connect()
    with connection.SimpleQueue("simple") as queue:
        queue.put({"a": 1})
        assert queue.qsize() == 1
        message = queue.get(timeout=5)
        assert message.payload == {"a": 1}
        message.ack()
        with pytest.raises(queue.Empty):
            queue.get(block=False)
    with connection.SimpleBuffer("buffer") as buffer:
        buffer.put("b")
        assert buffer.get(timeout=5).payload == "b"


def test_a_fanout_reaches_every_consumer_and_patterns_their_queues(connect: Connect) -> None:
    connection, news, log = connect(), Exchange("news", "fanout"), Exchange("log", "topic")
    heard: list[Any] = []
    with ExitStack() as stack:
        listening = [connect() for _ in range(2)]
        for number, one in enumerate(listening):
            queue = Queue(f"ear{number}", news, auto_delete=True)
            stack.enter_context(Consumer(one.channel(), [queue], on_message=heard.append, no_ack=True))
            with suppress(TimeoutError):  # begins to listen; some brokers say so
                one.drain_events(timeout=0.1)
        connection.Producer().publish("hear", exchange=news, declare=[news])
        for one in listening:
            one.drain_events(timeout=5)
    assert [message.payload for message in heard] == ["hear", "hear"]
    channel = connection.default_channel
    for name, pattern in (("errors", "*.error"), ("web", "web.#"), ("all", "#")):
        Queue(name, log, routing_key=pattern)(channel).declare()
    producer = connection.Producer()
    for key in ("web.error", "web.http.info", "db.error"):
        producer.publish(key, exchange=log, routing_key=key)
    assert bodies(connection, "errors") == ["web.error", "db.error"]
    assert bodies(connection, "web") == ["web.error", "web.http.info"]
    assert bodies(connection, "all") == ["web.error", "web.http.info", "db.error"]


def test_what_the_connection_says_of_itself(connect: Connect) -> None:
    connection = connect()
    assert connection.connected is False
    connection.ensure_connection(max_retries=1)
    assert connection.connected
    assert connection.is_evented
    assert connection.supports_heartbeats is False
    connection.heartbeat_check()
    assert {"direct", "topic", "fanout"} <= connection.transport.implements.exchange_type
    assert issubclass(OperationalError, Exception)
    assert all(issubclass(kind, Exception) for kind in connection.connection_errors + connection.channel_errors)
    assert connection.transport.driver_version()
    manager = connection.get_manager()
    assert manager.get_bindings() is not None
    manager.close()
    connection.release()
    connection.release()
    send(connection, "anew")
    assert bodies(connection, "jobs") == ["anew"]


def test_an_unbound_queue_is_an_error_before_anything_is_asked(connect: Connect) -> None:
    connect()
    with pytest.raises(NotBoundError):
        Queue("jobs").declare()
