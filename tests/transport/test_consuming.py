"""Delivering to consumers, broadcasting, and the queues that come and go with their users."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.asynchronous import Hub
from kombu.exceptions import ChannelError

from celery_laravel.testing.processes import wait_until
from celery_laravel.transport.database.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.transport.conftest import Clock


def collect(connection: Connection, queues: list[Queue], count: int, **options: Any) -> list[Any]:
    """Consume ``count`` messages, acknowledging them."""
    seen: list[Any] = []

    def on_message(body: Any, message: Any) -> None:
        seen.append(body)
        if not options.get("no_ack"):
            message.ack()

    with Consumer(connection.default_channel, queues, callbacks=[on_message], **options):
        for _ in range(count):
            connection.drain_events(timeout=5)
    return seen


def fill(connection: Connection, *queues: str, count: int = 4) -> None:
    producer = connection.Producer()
    for queue in queues:
        for number in range(count):
            producer.publish(f"{queue}{number}", routing_key=queue)


def test_one_call_delivers_one_message(connect: Callable[..., Connection]) -> None:
    connection = connect()
    fill(connection, "a")
    assert collect(connection, [Queue("a")], 1) == ["a0"]
    assert collect(connection, [Queue("a")], 3) == ["a1", "a2", "a3"]


def test_waiting_in_vain_ends_with_the_timeout(connect: Callable[..., Connection]) -> None:
    connection = connect()
    with Consumer(connection, [Queue("a")]), pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.05)


def test_queues_take_turns(connect: Callable[..., Connection]) -> None:
    connection = connect()
    fill(connection, "a", "b", count=3)
    assert collect(connection, [Queue("a"), Queue("b")], 6) == ["a0", "b0", "a1", "b1", "a2", "b2"]


@pytest.mark.parametrize(
    ("strategy", "expected"), [("priority", ["b0", "b1", "a0", "a1"]), ("sorted", ["a0", "a1", "b0", "b1"])]
)
def test_queues_can_be_asked_in_a_fixed_order(
    connect: Callable[..., Connection], strategy: str, expected: list[str]
) -> None:
    connection = connect(queue_order_strategy=strategy)
    fill(connection, "a", "b", count=2)
    assert collect(connection, [Queue("b"), Queue("a")], 4) == expected


def test_the_prefetch_limit_holds_until_something_is_acknowledged(connect: Callable[..., Connection]) -> None:
    connection = connect()
    fill(connection, "a", count=5)
    held: list[Any] = []
    with Consumer(connection, [Queue("a")], on_message=held.append, prefetch_count=2):
        for _ in range(2):
            connection.drain_events(timeout=5)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        held[0].ack()
        connection.drain_events(timeout=5)
    assert [message.payload for message in held] == ["a0", "a1", "a2"]


def test_a_message_from_another_process_wakes_a_waiting_consumer(connect: Callable[..., Connection]) -> None:
    connection = connect()
    with Consumer(connection, [Queue("a")], no_ack=True, callbacks=[lambda *_: None]):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        child = os.fork()
        if not child:
            with connect() as mine:
                fill(mine, "a", count=1)
            os._exit(0)
        connection.drain_events(timeout=5)
        assert os.waitpid(child, 0)[1] == 0


def test_a_connection_made_before_a_fork_works_on_both_sides(connect: Callable[..., Connection]) -> None:
    connection = connect()
    fill(connection, "a", count=1)
    held = connection.default_channel.basic_get("a")
    child = os.fork()
    if not child:
        try:
            fill(connection, "b", count=2)
            ok = connection.default_channel.basic_get("b").payload == "b0"
            connection.close()  # must not give back what the parent holds
            os._exit(0 if ok else 1)
        except BaseException:
            os._exit(2)  # the child must not run on into the parent's test
    assert os.waitpid(child, 0)[1] == 0
    assert connection.default_channel.basic_get("a") is None
    held.ack()
    fill(connection, "a", count=1)
    assert connection.default_channel.basic_get("a").payload == "a0"


def test_a_forked_child_renews_what_it_took_and_leaves_what_is_its_parents(connect: Callable[..., Connection]) -> None:
    """Else it would hold its parent's messages for longer than its parent lives, and lose its own."""
    connection = connect()
    fill(connection, "a", count=1)
    fill(connection, "b", count=1)
    held = connection.default_channel.basic_get("a")
    keeper, qos = connection.transport._keeper, connection.default_channel.qos
    assert keeper._thread.is_alive()
    child = os.fork()
    if not child:
        try:
            message = connection.default_channel.basic_get("b")
            renewed = (qos.leases if hasattr(qos, "leases") else qos.tags)()
            ok = len(renewed) == 1 and keeper._thread.is_alive()
            message.ack()
            os._exit(0 if ok else 1)
        except BaseException:
            os._exit(2)  # the child must not run on into the parent's test
    assert os.waitpid(child, 0)[1] == 0
    held.ack()


def test_what_was_fetched_behind_a_callback_that_raises_goes_back(connect: Callable[..., Connection]) -> None:
    connection = connect()
    fill(connection, "a", count=3)
    channel = connection.default_channel

    def refuse(body: Any, message: Any) -> None:
        message.ack()
        raise ArithmeticError

    with Consumer(channel, [Queue("a")], callbacks=[refuse]):
        version = connection.transport.database.news.version()
        with pytest.raises(ArithmeticError):
            channel.deliver(connection.transport._deliver, 10, version)
    assert channel.queue_declare("a", passive=True).message_count == 2
    assert collect(connection, [Queue("a")], 2) == ["a1", "a2"]


def test_what_is_fetched_behind_a_long_callback_is_held_and_renewed_like_the_first(
    clock: Clock, connect: Callable[..., Connection]
) -> None:
    connection, other = connect(visibility_timeout=30), connect()
    fill(connection, "a", count=3)
    channel = connection.default_channel
    taken_by_others: list[Any] = []

    def work_for_long(message: Any) -> None:
        for _ in range(3):
            clock.advance(20)
            channel.renew()
        taken_by_others.append(other.default_channel.basic_get("a"))
        message.ack()

    with Consumer(channel, [Queue("a")], on_message=work_for_long):
        assert channel.deliver(connection.transport._deliver, 10, connection.transport.database.news.version()) == 3
    assert taken_by_others == [None, None, None]
    assert not channel.qos.leases()


def test_what_was_fetched_before_the_database_failed_goes_back(
    connect: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect()
    fill(connection, "a", "b", count=2)
    channel = connection.default_channel
    reserve = channel.messages.reserve

    def fail_on_b(queue: str, *args: Any, **kwargs: Any) -> Any:
        if queue == "b":
            raise BrokerUnavailableError("locked")
        return reserve(queue, *args, **kwargs)

    with Consumer(channel, [Queue("a"), Queue("b")]):
        monkeypatch.setattr(channel.messages, "reserve", fail_on_b)
        with pytest.raises(BrokerUnavailableError):
            channel.deliver(connection.transport._deliver, 10, connection.transport.database.news.version())
    assert channel.queue_declare("a", passive=True).message_count == 2
    assert not channel.qos.leases()


def test_an_event_loop_delivers_many_at_a_time_within_the_prefetch_limit(connect: Callable[..., Connection]) -> None:
    connection = connect(polling_interval=0.01)
    fill(connection, "a", count=10)
    hub = Hub()
    held: list[Any] = []
    connection.connect()
    connection.register_with_event_loop(hub)
    with Consumer(connection, [Queue("a")], on_message=held.append, prefetch_count=4) as consumer:
        wait_until(lambda: hub.run_once() or len(held) == 4, interval=0)
        held[0].ack()
        wait_until(lambda: hub.run_once() or len(held) == 5, interval=0)
        consumer.qos(prefetch_count=0)
        wait_until(lambda: hub.run_once() or len(held) == 10, interval=0)
    assert [message.payload for message in held] == [f"a{number}" for number in range(10)]
    connection.close()
    assert not hub.on_tick
    waker = getattr(hub, "_waker", None)  # the hub's own, since kombu 5.7
    assert set(hub.readers) <= {waker.fileno() if waker else None}
    hub.close()


def test_a_fanout_exchange_reaches_every_queue_bound_by_any_process(connect: Callable[..., Connection]) -> None:
    news = Exchange("news", "fanout")
    readers = [connect() for _ in range(3)]
    queues = [Queue(f"reader{number}", news) for number in range(3)]
    for reader, queue in zip(readers, queues, strict=True):
        queue(reader.default_channel).declare()
    connect().Producer().publish("hello", exchange=news, declare=[news])
    for reader, queue in zip(readers, queues, strict=True):
        assert collect(reader, [queue], 1) == ["hello"]


def test_direct_and_topic_exchanges_route_by_key_across_processes(connect: Callable[..., Connection]) -> None:
    direct, topic = Exchange("d", "direct"), Exchange("t", "topic")
    reader = connect()
    queues = [Queue("one", direct, "k1"), Queue("two", direct, "k2"), Queue("worker", topic, "worker.#")]
    for queue in queues:
        queue(reader.default_channel).declare()
    producer = connect().Producer()
    for exchange, key in [(direct, "k2"), (direct, "none"), (topic, "worker.online"), (topic, "task.sent")]:
        producer.publish(key, exchange=exchange, routing_key=key, declare=[exchange])
    assert sorted(collect(reader, queues, 2)) == ["k2", "worker.online"]


def test_names_that_differ_by_a_blank_at_the_end_or_in_case_are_different_names(
    connect: Callable[..., Connection],
) -> None:
    names = ["jobs", "jobs ", "jobs  ", "JOBS", "jobs\x01", " "]
    connection = connect()
    channel = connection.default_channel
    exchange = Exchange("ledger", channel=channel)
    exchange.declare()
    for number, name in enumerate(names):
        queue = Queue(name, exchange, routing_key=f"key{name}", channel=channel)
        queue.declare()
        exchange.publish(exchange.Message(str(number)), routing_key=f"key{name}")
    bound = {(key, queue) for key, _, queue in connect().default_channel.get_table("ledger")}
    assert bound == {(f"key{name}", name) for name in names}
    for number, name in enumerate(names):
        assert channel._size(name) == 1
        assert channel.basic_get(name, no_ack=True).body == str(number).encode()
        assert channel.basic_get(name) is None
    channel.queue_delete("jobs ")
    assert [channel._has_queue(name) for name in names] == [True, False, True, True, True, True]


def test_an_unbound_queue_gets_nothing_more(connect: Callable[..., Connection]) -> None:
    connection, direct = connect(), Exchange("d", "direct")
    queue = Queue("one", direct, "k")(connection.default_channel)
    queue.declare()
    queue.unbind_from(direct, "k")
    connection.Producer().publish("x", exchange=direct, routing_key="k", declare=[direct])
    assert queue.get() is None


def test_a_deleted_queue_is_gone_with_its_messages_and_bindings(connect: Callable[..., Connection]) -> None:
    connection, other, direct = connect(), connect(), Exchange("d", "direct")
    Queue("one", direct, "k")(connection.default_channel).declare()
    fill(connection, "one", count=2)
    other.default_channel.queue_delete("one", if_empty=True)
    assert connection.default_channel.queue_declare("one", passive=True).message_count == 2
    other.default_channel.queue_delete("one")
    with pytest.raises(ChannelError, match="NOT_FOUND"):
        connection.default_channel.queue_declare("one", passive=True)
    assert connection.default_channel.get_table("d") == []


def test_a_queue_that_nobody_uses_any_more_is_removed(clock: Clock, connect: Callable[..., Connection]) -> None:
    connection, news = connect(), Exchange("news", "fanout")
    for queue in [Queue("reply", news, expires=10), Queue("events", news, auto_delete=True), Queue("jobs", news)]:
        queue(connection.default_channel).declare()
    connection.Producer().publish("hello", exchange=news)
    queues = connection.transport.queues
    assert connection.default_channel.queue_declare("reply", passive=True).message_count == 1
    assert queues.sweep() == []
    clock.advance(11)
    assert queues.sweep() == ["reply"]
    clock.advance(60)
    assert queues.sweep() == ["events"]
    assert [queue for _, _, queue in queues.bindings("news")] == ["jobs"]
    assert connection.default_channel.messages.count_ready("reply") == 0


def test_what_is_sent_to_a_queue_that_has_vanished_does_not_pile_up(
    clock: Clock, connect: Callable[..., Connection]
) -> None:
    """The client that waited for results is dead, and workers answer it by the name of its queue."""
    connection, client = connect(), Queue("client", expires=10)
    channel = connection.default_channel
    client(channel).declare()
    fill(connection, "client")
    clock.advance(11)
    assert channel.queues.sweep() == ["client"]
    assert not channel.queues.exists("client")
    fill(connection, "client", "jobs")
    assert channel.queues.sweep() == []
    assert [channel.messages.count_ready(queue) for queue in ("client", "jobs")] == [0, 4]
    assert channel.queues.renew({"client": 10}) == ["client"], "it is not there to be renewed"
    client(channel).declare()
    fill(connection, "client")
    assert channel.queues.sweep() == []
    assert collect(connection, [client], 4) == [f"client{number}" for number in range(4)]
    for _ in range(2):
        clock.advance(100 * 86_400)
        channel.queues.sweep()
    queues = channel.connection.database.tables.queues
    names = channel.connection.database.run(lambda lent: lent.execute(sa.select(queues.c.name)).scalars().all())
    assert names == [], "not remembered for ever"


def test_a_queue_in_use_is_kept_and_one_that_expired_meanwhile_is_declared_and_bound_again(
    clock: Clock, connect: Callable[..., Connection]
) -> None:
    connection, news = connect(), Exchange("news", "fanout")
    queues = connection.default_channel.queues
    with Consumer(connection, [Queue("reply", news, expires=10)]):
        for _ in range(3):
            clock.advance(9)
            connection.default_channel.renew()
        assert queues.sweep() == []
        clock.advance(1000)
        assert queues.sweep() == ["reply"]
        connection.default_channel.renew()
        assert queues.exists("reply")
        assert [queue for _, _, queue in queues.bindings("news")] == ["reply"]


def test_a_new_connection_removes_what_others_left(clock: Clock, connect: Callable[..., Connection]) -> None:
    crashed = connect()
    Queue("reply", expires=10)(crashed.default_channel).declare()
    clock.advance(11)
    assert not connect().default_channel.queues.exists("reply")


def test_a_consumer_without_acknowledgements_removes_at_delivery(
    clock: Clock, connect: Callable[..., Connection]
) -> None:
    connection = connect()
    fill(connection, "a", count=2)
    assert collect(connection, [Queue("a")], 2, no_ack=True) == ["a0", "a1"]
    clock.advance(1e6)
    assert connection.default_channel.basic_get("a") is None


def test_a_message_delivered_for_a_cancelled_consumer_goes_back(connect: Callable[..., Connection]) -> None:
    connection = connect()
    fill(connection, "a", count=1)
    channel = connection.default_channel
    consumer = Consumer(channel, [Queue("a")], callbacks=[lambda *_: None])
    consumer.consume()
    connection.transport._callbacks.pop("a")
    connection.drain_events(timeout=5)
    consumer.cancel()
    assert channel.basic_get("a").payload == "a0"


def test_kombus_simple_queue_works(connect: Callable[..., Connection]) -> None:
    with connect().SimpleQueue("simple") as queue:
        queue.put({"n": 1})
        assert queue.qsize() == 1
        message = queue.get(timeout=5)
        message.ack()
        assert queue.qsize() == 0
        with pytest.raises(queue.Empty):
            queue.get(block=False)


def test_what_a_producer_published_before_it_was_killed_is_there(connect: Callable[..., Connection]) -> None:
    connection = connect()
    connection.default_channel.queue_declare("a")
    child = os.fork()
    if not child:
        producer = Producer(connection.default_channel)
        for number in range(1000):
            producer.publish(number, routing_key="a")
            if number == 100:
                os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert connection.default_channel.queue_declare("a", passive=True).message_count == 101
