"""What is held, by whom, for how long, and how it comes back."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from redis.exceptions import ConnectionError as RedisConnectionError

from celery_laravel.testing.processes import wait_until
from tests.transport.redis_broker.conftest import age, get, send

if TYPE_CHECKING:
    from collections.abc import Callable

    Connect = Callable[..., Connection]

pytestmark = [pytest.mark.matrix, pytest.mark.redis]


def put_back_abandoned(connection: Connection, visibility_timeout: float = 60, **options: Any) -> int:
    return int(connection.default_channel.held.put_back_abandoned(visibility_timeout, **options))


def deliveries(message: Any) -> tuple[Any, bool, bool]:
    """What a message says about earlier deliveries."""
    headers, info = message.headers, message.delivery_info
    return headers.get("x-delivery-count"), bool(headers.get("redelivered")), bool(info.get("redelivered"))


def test_what_nobody_renews_comes_back_with_a_count(connect: Connect, client: Any) -> None:
    connection = connect()
    send(connection, "work", headers={"mine": 1})
    assert deliveries(get(connection)) == (None, False, False)
    for count in (1, 2, 3):
        assert put_back_abandoned(connection) == 0, "its holder was heard of a moment ago"
        age(client, 61)
        assert put_back_abandoned(connection) == 1
        message = get(connection)
        assert deliveries(message) == (count, True, True)
        assert message.headers["mine"] == 1
    message.ack()
    assert client.exists("jobs", "unacked", "unacked_index") == 0


def test_abandoned_messages_come_back_all_at_once_and_in_no_more_than_the_limit(connect: Connect, client: Any) -> None:
    connection = connect()
    send(connection, *range(250))
    for _ in range(250):
        get(connection)
    age(client, 61)
    assert put_back_abandoned(connection, limit=30) == 30
    assert put_back_abandoned(connection) == 220
    assert client.llen("jobs") == 250


def test_whoever_asks_kombus_way_has_it_put_back_at_once(connect: Connect, client: Any) -> None:
    connection = connect(visibility_timeout=60)
    send(connection, *range(3))
    for _ in range(3):
        get(connection)
    qos = connection.default_channel.qos
    qos.restore_visible()
    assert client.llen("jobs") == 0, "its holder was heard of a moment ago"
    age(client, 61)
    qos.restore_visible(num=2, interval=1)
    assert client.llen("jobs") == 2
    qos.restore_visible(interval=1)
    assert client.llen("jobs") == 3


def test_a_process_renews_what_it_holds_and_puts_back_what_others_left(connect: Connect, client: Any) -> None:
    dead, living = connect(visibility_timeout=1000), connect(visibility_timeout=0.5)
    send(dead, "left")
    get(dead)
    age(client, 1)
    send(living, "kept")
    held = get(living)
    first = client.zscore("unacked_index", held.delivery_tag)
    assert first is not None
    wait_until(lambda: client.llen("jobs") == 1, 20, message="what the other left")
    wait_until(lambda: (client.zscore("unacked_index", held.delivery_tag) or 0) > first + 1.5, 20, message="renewed")
    assert json.loads(client.lindex("jobs", 0))["headers"]["x-delivery-count"] == 1
    assert client.hexists("unacked", held.delivery_tag)


def test_renewing_does_not_bring_back_what_was_settled(connect: Connect, client: Any) -> None:
    connection = connect()
    send(connection, "work")
    message = get(connection)
    qos = connection.default_channel.qos
    tags = qos.tags()
    assert tags == [message.delivery_tag]
    message.ack()
    connection.default_channel.held.renew(tags)
    assert client.exists("unacked_index") == 0
    assert qos.tags() == []


def test_a_late_acknowledgement_does_not_touch_the_next_delivery(connect: Connect, client: Any) -> None:
    """With kombu it removes the record of the worker that runs the message now."""
    slow, next_one = connect(), connect()
    send(slow, "work")
    late = get(slow)
    age(client, 61)
    put_back_abandoned(next_one)
    now = get(next_one)
    late.ack()
    assert list(client.hgetall("unacked")) == [now.delivery_tag]


def test_a_late_requeue_does_not_make_a_second_copy(connect: Connect, client: Any) -> None:
    slow, next_one = connect(), connect()
    send(slow, "work")
    late = get(slow)
    age(client, 61)
    put_back_abandoned(next_one)
    get(next_one)
    late.reject(requeue=True)
    assert client.llen("jobs") == 0
    assert client.hlen("unacked") == 1


def test_a_rejected_message_is_gone_and_a_requeued_one_comes_last_with_a_count(connect: Connect, client: Any) -> None:
    connection = connect()
    send(connection, "a", "b", "c")
    get(connection).reject()
    get(connection).requeue()
    assert get(connection).payload == "c"
    again = get(connection)
    assert again.payload == "b"
    assert deliveries(again) == (1, True, True)
    assert client.hlen("unacked") == 2


def test_closing_gives_back_what_is_held_in_its_order_and_counts_no_delivery(connect: Connect, client: Any) -> None:
    first = connect()
    send(first, *"abcd")
    for _ in range(3):
        get(first)
    first.close()
    assert client.exists("unacked", "unacked_index") == 0
    second = connect()
    messages = [get(second) for _ in range(4)]
    assert [message.payload for message in messages] == ["a", "b", "c", "d"]
    assert deliveries(messages[0]) == (None, True, True)
    assert deliveries(messages[3]) == (None, False, False)


def test_a_message_of_a_topic_goes_back_to_its_own_queue_alone(connect: Connect, client: Any) -> None:
    """kombu routes it anew, and every queue of the topic gets it again."""
    connection = connect()
    exchange = Exchange("news", type="topic")
    for name in ("one", "two"):
        Queue(name, exchange, routing_key="new.#")(connection.default_channel).declare()
    connection.Producer().publish("x", exchange=exchange, routing_key="new.item")
    get(connection, "one").requeue()
    assert [client.llen("one"), client.llen("two")] == [1, 1]


def test_a_message_whose_queue_is_not_known_any_more_is_kept(connect: Connect, client: Any) -> None:
    """One that a plain worker recorded, with an exchange that nothing is bound to."""
    connection = connect()
    client.hset("unacked", "tag", json.dumps([{"headers": {}, "properties": {}}, "gone", "nowhere"]))
    client.zadd("unacked_index", {"tag": 1})
    assert put_back_abandoned(connection) == 0
    assert client.hexists("unacked", "tag")
    assert client.zscore("unacked_index", "tag") > client.time()[0] - 10, "tried again after another timeout"


def test_a_message_without_what_is_empty_goes_back_like_any_other(connect: Connect, client: Any) -> None:
    """Producers of other kinds leave out headers; kombu loses such a message here."""
    first = connect()
    client.lpush("jobs", json.dumps({"body": "bare", "content-type": "text/plain", "properties": {}}))
    send(first, "after")
    get(first).requeue()
    assert get(first).payload == "after"
    assert get(first).payload == "bare"
    first.close()
    second = connect()
    assert sorted(get(second).payload for _ in range(2)) == ["after", "bare"]


def test_a_message_that_cannot_go_back_is_in_no_others_way(connect: Connect, client: Any) -> None:
    connection = connect()
    for queue in ("stuck", "free"):
        send(connection, queue, queue=queue)
        get(connection, queue)
        age(client, 61)
    client.set("stuck", "of another type")
    assert put_back_abandoned(connection) == 1
    assert client.llen("free") == 1
    connection.close()
    assert client.hlen("unacked") == 1, "kept until somebody mends it"


def test_what_could_not_be_given_back_goes_back_when_the_server_answers(
    connect: Connect, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrived for a consumer that had been cancelled, and the connection was lost in that moment."""
    connection = connect()
    channel = connection.default_channel
    consumer = Consumer(channel, [Queue("jobs"), Queue("other")], on_message=lambda _: None)
    consumer.consume()
    send(connect(), "work")
    connection.transport.cycle.on_poll_start()
    consumer.cancel_by_queue("jobs")

    def away(*_: Any, **__: Any) -> Any:
        raise RedisConnectionError("away")

    with monkeypatch.context() as patched:
        patched.setattr(channel.held, "put_back", away)
        with pytest.raises(RedisConnectionError):
            connection.drain_events(timeout=5)
    assert client.hlen("unacked") == 1
    channel.qos.settle_owed()
    assert client.llen("jobs") == 1
    assert client.exists("unacked", "unacked_index") == 0


def test_many_that_end_together_share_a_connection(connect: Connect, client: Any) -> None:
    """With a hundred greenlets kombu runs out of its ten connections, and acknowledges nothing."""
    connection = connect(max_connections=3)
    send(connection, *range(30))
    messages = [get(connection) for _ in range(30)]
    together = threading.Barrier(30)

    def end(message: Any) -> None:
        together.wait(30)
        message.ack()

    threads = [threading.Thread(target=end, args=(message,)) for message in messages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not connection.default_channel.qos._owed
    assert client.exists("unacked", "unacked_index") == 0


def test_what_is_owed_is_made_up_for_long_before_anything_has_to_be_renewed(
    connect: Connect, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it takes up room for another message."""
    connection = connect(visibility_timeout=3600, unacked_restore_interval=0.2)
    send(connection, "work")
    message = get(connection)
    wait_until(lambda: connection.transport._renewed_at, message="a first renewal; the next is in a minute")

    def away(*_: Any, **__: Any) -> Any:
        raise RedisConnectionError("away")

    with monkeypatch.context() as patched:
        patched.setattr(connection.default_channel.held, "remove", away)
        message.ack()
    wait_until(lambda: client.exists("unacked", "unacked_index") == 0, 10)


def test_a_time_without_a_message_is_removed(connect: Connect, client: Any) -> None:
    connection = connect()
    client.zadd("unacked_index", {"orphan": 1})
    assert put_back_abandoned(connection) == 0
    assert client.exists("unacked_index") == 0


def test_an_acknowledgement_that_was_cut_off_is_made_up_for(
    connect: Connect, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect()
    send(connection, "work")
    message = get(connection)
    qos = connection.default_channel.qos

    def away(*_: Any, **__: Any) -> Any:
        raise RedisConnectionError("away")

    with monkeypatch.context() as patched:
        patched.setattr(qos._held, "remove", away)
        message.ack()
    assert qos.tags() == [message.delivery_tag], "still held, so that nobody runs it again"
    qos.renew()
    assert qos.tags() == []
    assert client.exists("unacked", "unacked_index", "jobs") == 0


def test_a_job_that_ends_after_its_channel_acknowledges_nothing_and_harms_nobody(connect: Connect, client: Any) -> None:
    """The connection was lost while it ran, and what the channel held has been given back."""
    first = connect()
    send(first, "work")
    message = get(first)
    first.close()
    again = get(connect())
    message.ack()
    assert list(client.hgetall("unacked")) == [again.delivery_tag]
    message.channel.basic_reject(message.delivery_tag, requeue=True)
    assert client.llen("jobs") == 0


def test_a_job_that_ends_after_its_channel_is_done_if_it_could_not_be_given_back(
    connect: Connect, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = connect()
    send(first, "work")
    message = get(first)

    def away(*_: Any, **__: Any) -> Any:
        raise RedisConnectionError("away")

    with monkeypatch.context() as patched:
        patched.setattr(first.default_channel.held, "put_back", away)
        first.close()
    assert client.hlen("unacked") == 1
    message.ack()
    assert client.exists("unacked", "unacked_index", "jobs") == 0


# -- beside kombu's own workers


def test_what_kombu_publishes_we_deliver_and_the_other_way_round(connect: Connect, connect_plainly: Connect) -> None:
    ours, plain = connect(), connect_plainly()
    send(plain, "from kombu", priority=3)
    message = get(ours)
    assert message.payload == "from kombu"
    message.ack()
    send(ours, "from us", priority=3)
    message = get(plain)
    assert message.payload == "from us"
    message.ack()


def test_kombu_restores_what_a_dead_worker_of_ours_held(
    connect: Connect, connect_plainly: Connect, client: Any
) -> None:
    send(connect(), "work", priority=6)
    ours = get(connect())
    age(client, 100)
    plain = connect_plainly(visibility_timeout=60)
    plain.default_channel.qos.restore_visible(num=None)
    message = get(plain)
    assert message.payload == "work"
    assert message.headers["redelivered"]
    ours.ack()
    assert client.hlen("unacked") == 1, "the plain worker's"
    message.ack()
    assert client.exists("unacked", "unacked_index") == 0


def test_we_restore_what_a_dead_worker_of_kombus_held(connect: Connect, connect_plainly: Connect, client: Any) -> None:
    plain = connect_plainly()
    queue = Queue("orders", Exchange("shop", type="direct"), routing_key="new")
    queue(plain.default_channel).declare()
    plain.Producer().publish("work", exchange="shop", routing_key="new", priority=6)
    get(plain, "orders")
    age(client, 100)
    ours = connect()
    assert put_back_abandoned(ours) == 1
    assert client.llen("orders\x06\x166") == 1
    message = get(ours, "orders")
    assert (message.payload, deliveries(message)) == ("work", (1, True, True))


def test_kombu_gives_back_what_it_got_of_ours_at_its_shutdown(
    connect: Connect, connect_plainly: Connect, client: Any
) -> None:
    ours, plain = connect(), connect_plainly()
    send(ours, "work")
    get(ours).requeue()
    seen: list[Any] = []
    with Consumer(plain.default_channel, [Queue("jobs")], on_message=seen.append):
        plain.drain_events(timeout=5)
    assert deliveries(seen[0]) == (1, True, True)
    plain.close()
    assert client.llen("jobs") == 1


def test_a_message_without_headers_goes_back_when_its_channel_closes(connect: Connect, client: Any) -> None:
    """It is no reason to leave the others."""
    connection = connect()
    send(connection, "a")
    client.rpush("jobs", json.dumps({"body": "", "properties": {"delivery_info": {"routing_key": "jobs"}}}))
    assert get(connection) is not None
    assert get(connection) is not None
    connection.close()
    assert client.llen("jobs") == 2
