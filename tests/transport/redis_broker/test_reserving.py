"""Taking a message and recording it as held, in one step."""

from __future__ import annotations

import base64
import json
import logging
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection, Consumer, Queue
from kombu.transport import redis as kombus
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from celery_laravel.testing.processes import wait_until
from celery_laravel.transport.redis import reservation
from celery_laravel.transport.redis.scripts import script
from tests.transport.redis_broker.conftest import get, send

if TYPE_CHECKING:
    from collections.abc import Callable

    Connect = Callable[..., Connection]

pytestmark = [pytest.mark.matrix, pytest.mark.redis]


def base64_decoded(answer: bytes) -> bytes:
    """The bodies in the payloads of an answer."""
    return b"".join(base64.b64decode(body) for body in re.findall(rb'"body": "([^"]*)"', answer))


def consume(connection: Connection, *queues: str, count: int = 1, **options: Any) -> list[Any]:
    """The bodies of the next messages, acknowledged."""
    seen: list[Any] = []

    def on_message(body: Any, message: Any) -> None:
        seen.append(body)
        if not options.get("no_ack"):
            message.ack()

    with Consumer(connection.default_channel, [Queue(name) for name in queues], callbacks=[on_message], **options):
        for _ in range(count):
            connection.drain_events(timeout=5)
    return seen


def test_a_message_is_recorded_by_the_command_that_takes_it(connect: Connect, client: Any) -> None:
    """In kombu's format, with a tag of this delivery's own, and to be restored to the queue it came from."""
    connection = connect()
    send(connection, "work")
    [payload] = client.lrange("jobs", 0, -1)
    before = client.time()
    message = get(connection)
    held = client.hgetall("unacked")
    assert json.loads(held[message.delivery_tag]) == [json.loads(payload), "", "jobs"]
    assert message.delivery_tag != json.loads(payload)["properties"]["delivery_tag"]
    [(tag, since)] = client.zrange("unacked_index", 0, -1, withscores=True)
    assert tag == message.delivery_tag
    assert before[0] + before[1] / 1e6 <= since <= client.time()[0] + 1
    message.ack()
    assert client.exists("unacked", "unacked_index", "jobs") == 0


def test_two_copies_of_a_message_are_two_deliveries(connect: Connect, client: Any) -> None:
    """kombu records both under the message's tag, and acknowledging one loses the other."""
    connection = connect()
    send(connection, "twice")
    client.lpush("jobs", client.lindex("jobs", 0))
    first, second = get(connection), get(connection)
    first.ack()
    assert list(client.hgetall("unacked")) == [second.delivery_tag]


def test_a_reservation_is_whole_when_its_answer_is_never_read(connect: Connect, client: Any) -> None:
    """This is the moment in which kombu's workers lose a message when they are killed."""
    connection = connect()
    with Consumer(connection.default_channel, [Queue("jobs")], on_message=lambda _: None):
        send(connect(), "work")
        connection.transport.cycle.on_poll_start()
        assert connection.default_channel.reservation.tag is not None
        sock = connection.default_channel.client.connection._sock
        assert b"work" in base64_decoded(sock.recv(65536)), "the answer"
        sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(RedisConnectionError):
            connection.drain_events(timeout=5)
        assert client.llen("jobs") + client.hlen("unacked") == 1
    connection.close()
    assert client.llen("jobs") == 1, "what the lost answer held was given back"
    assert "redelivered" not in json.loads(client.lindex("jobs", 0))["headers"]
    assert client.exists("unacked", "unacked_index") == 0


def test_what_an_overdue_answer_held_is_given_back_by_the_living_consumer(connect: Connect, client: Any) -> None:
    """kombu drops a connection that has not answered for long, and the consumer goes on with another."""
    connection = connect()
    channel = connection.default_channel
    with Consumer(channel, [Queue("jobs")], on_message=lambda message: message.ack()):
        send(connect(), "work")
        connection.transport.cycle.on_poll_start()
        wait_until(lambda: client.hlen("unacked") == 1)
        channel.client.connection.disconnect()
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        channel.qos.renew()
        assert client.llen("jobs") == 1
        connection.drain_events(timeout=20)
    assert client.exists("jobs", "unacked", "unacked_index") == 0


def test_priorities_come_before_the_turns_of_queues_as_with_kombu(connect: Connect) -> None:
    """In Redis the lowest number is the most urgent, and numbers share a list by kombu's steps."""
    connection = connect()
    for queue in ("a", "b"):
        for priority in (9, 6, 4, 3, 0):
            send(connection, f"{queue}{priority}", queue=queue, priority=priority)
    found = consume(connection, "a", "b", count=10)
    assert found[:2] == ["a0", "b0"]
    assert [body[1:] for body in found] == ["0", "0", "4", "4", "3", "3", "6", "6", "9", "9"]


def test_own_priority_steps_are_kept(connect: Connect, client: Any) -> None:
    connection = connect(priority_steps=[0, 5], sep=":")
    send(connection, "late", priority=7)
    send(connection, "soon", priority=2)
    assert client.llen("jobs:5") == 1
    assert consume(connection, "jobs", count=2) == ["soon", "late"]


def test_a_prefix_is_before_every_key(connect: Connect, client: Any) -> None:
    connection = connect(global_keyprefix="shop:", unacked_key="kept")
    send(connection, "work")
    message = get(connection)
    assert {*client.keys()} == {"shop:kept", "shop:unacked_index"}
    message.reject(requeue=True)
    assert client.llen("shop:jobs") == 1
    with Consumer(connection.default_channel, [Queue("jobs")], on_message=lambda message: message.ack()):
        connection.drain_events(timeout=5)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.05)
        send(connect(global_keyprefix="shop:"), "more")
        connection.drain_events(timeout=2)
    assert all(key.startswith("shop:") for key in client.scan_iter())


def test_without_acknowledgements_nothing_is_recorded(connect: Connect, client: Any) -> None:
    connection = connect()
    send(connection, "a", "b")
    assert get(connection, no_ack=True).payload == "a"
    assert consume(connection, "jobs", no_ack=True) == ["b"]
    assert client.exists("unacked", "unacked_index", "jobs") == 0


def test_one_channel_may_acknowledge_some_queues_and_not_others(connect: Connect, client: Any) -> None:
    connection = connect()
    channel = connection.default_channel
    seen: list[Any] = []
    consumers = [
        Consumer(channel, [Queue("kept")], on_message=seen.append),
        Consumer(channel, [Queue("gone")], on_message=seen.append, no_ack=True),
    ]
    send(connection, 1, queue="kept")
    send(connection, 2, queue="gone")
    for consumer in consumers:
        consumer.consume()
    for _ in range(2):
        connection.drain_events(timeout=5)
    assert {message.payload for message in seen} == {1, 2}
    assert [json.loads(record)[2] for record in client.hvals("unacked")] == ["kept"]


def test_with_acknowledgements_switched_off_everything_is_kombus(connect: Connect, client: Any) -> None:
    connection = connect(ack_emulation=False)
    send(connection, "a", "b")
    message = get(connection)
    message.ack()
    assert consume(connection, "jobs") == ["b"]
    assert client.exists("unacked", "unacked_index") == 0


def test_a_message_that_arrives_for_a_cancelled_consumer_goes_back_untouched(connect: Connect, client: Any) -> None:
    connection = connect()
    consumer = Consumer(connection.default_channel, [Queue("jobs"), Queue("other")], on_message=lambda _: None)
    consumer.consume()
    send(connect(), "first", "second")
    [_, first] = client.lrange("jobs", 0, -1)
    connection.transport.cycle.on_poll_start()
    consumer.cancel_by_queue("jobs")
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.1)
    assert client.lindex("jobs", -1) == first, "next in turn, as it was"
    assert client.exists("unacked") == 0


def test_a_closing_channel_gives_back_what_was_under_way(connect: Connect, client: Any) -> None:
    connection = connect()
    Consumer(connection.default_channel, [Queue("jobs")], on_message=lambda _: None).consume()
    send(connect(), "work")
    connection.transport.cycle.on_poll_start()
    connection.close()
    assert client.llen("jobs") == 1
    assert client.exists("unacked") == 0


NO_MESSAGES = [
    "no message",
    "[]",
    '{"properties": 1}',
    "{}",
    '{"body": "a", "headers": {}, "properties": {"body_encoding": "base64", "delivery_info": {}}}',
    '{"body": 17, "headers": {}, "properties": {"body_encoding": "base64", "delivery_info": {}}}',
    '{"body": "a", "headers": {}, "properties": {"body_encoding": "unheard of", "delivery_info": {}}}',
    "null",
    '{"properties": {"body_encoding": [1]}, "body": "x"}',
    '{"properties": {}, "headers": 1}',
    '{"properties": {"delivery_info": "x"}}',
]


@pytest.mark.parametrize("payload", NO_MESSAGES)
def test_what_is_no_message_is_set_aside_and_the_next_one_comes(connect: Connect, client: Any, payload: str) -> None:
    """One after the other, every worker would end over it."""
    connection = connect()
    send(connection, "a", "b")
    client.rpush("jobs", payload)
    assert get(connection).payload == "a"
    client.rpush("jobs", payload)
    assert consume(connection, "jobs") == ["b"]
    assert client.lrange("jobs.unreadable", 0, -1) == [payload, payload]
    assert client.hlen("unacked") == 1, "only what was got first and is not acknowledged"


@pytest.mark.parametrize("payload", NO_MESSAGES)
def test_what_is_no_message_and_arrives_for_a_cancelled_consumer_ends_no_worker(
    connect: Connect, client: Any, payload: str
) -> None:
    """It cannot be told where it belongs, so it does not go back."""
    connection = connect()
    consumer = Consumer(connection.default_channel, [Queue("jobs"), Queue("other")], on_message=lambda _: None)
    consumer.consume()
    client.rpush("jobs", payload)
    connection.transport.cycle.on_poll_start()
    consumer.cancel_by_queue("jobs")
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.1)
    assert client.exists("unacked") == 0
    assert len(client.lrange("jobs.unreadable", 0, -1) + client.lrange("jobs", 0, -1)) == 1, "it is not lost"


def test_a_record_that_is_no_message_is_set_aside(
    connect: Connect, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be tried again, and told of, for ever."""
    connection = connect()
    record = '[{"body": "cut, "", "jobs"]'
    client.hset("unacked", "tag", record)
    client.zadd("unacked_index", {"tag": 1})
    assert connection.default_channel.held.put_back_abandoned(60) == 0
    assert client.lrange("unacked.unreadable", 0, -1) == [record]
    assert client.exists("unacked", "unacked_index") == 0
    assert "Set aside in 'unacked.unreadable'" in caplog.text


def test_what_is_no_message_is_dropped_where_nothing_is_kept(
    connect: Connect, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    connection = connect()
    seen: list[Any] = []
    Consumer(connection.default_channel, [Queue("kept")], on_message=seen.append).consume()
    Consumer(connection.default_channel, [Queue("gone")], on_message=seen.append, no_ack=True).consume()
    client.lpush("gone", "no message")
    send(connection, "readable", queue="gone")
    while not seen:
        connection.drain_events(timeout=5)
    assert [message.payload for message in seen] == ["readable"]
    assert "Dropped what is no message of 'gone'" in caplog.text


@pytest.mark.skipif(not hasattr(kombus.MultiChannelPoller, "_pause_brpop"), reason="needs kombu that pauses")
@pytest.mark.parametrize("options", [{"ack_emulation": False}, {}])
def test_a_connection_that_kombu_paused_goes_on_when_there_is_room(connect: Connect, options: dict[str, Any]) -> None:
    """The limit is lowered while an answer is under way."""
    connection, other = connect(**options), connect()
    channel = connection.default_channel
    held: list[Any] = []
    with Consumer(channel, [Queue("jobs")], on_message=held.append, prefetch_count=2):
        for number in range(2):
            send(other, number)
        connection.drain_events(timeout=5)
        connection.transport.cycle.on_poll_start()
        channel.basic_qos(0, 1, False)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.2)
        held[0].ack()
        connection.drain_events(timeout=5)
    assert sorted(message.payload for message in held) == [0, 1]


def test_a_server_that_takes_no_writes_for_a_while_ends_no_consumer(
    connect: Connect, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its disk is full, or its replicas are away: kombu ends the worker."""
    monkeypatch.setattr(reservation, "LOOK_INTERVAL", 0.2)
    connection = connect()
    send(connection, "held", "waiting")
    seen: list[Any] = []
    held = get(connection)
    caplog.set_level(logging.WARNING)
    client.config_set("min-replicas-to-write", 1)
    try:
        with Consumer(connection.default_channel, [Queue("jobs")], on_message=seen.append):
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.5)
            held.ack()
            assert connection.default_channel.qos.tags() == [held.delivery_tag], "owed"
            client.config_set("min-replicas-to-write", 0)
            connection.drain_events(timeout=5)
            connection.default_channel.qos.settle_owed()
    finally:
        client.config_set("min-replicas-to-write", 0)
    assert [message.payload for message in seen] == ["waiting"]
    assert list(client.hgetall("unacked")) == [seen[0].delivery_tag]
    assert "gives out no messages for now" in caplog.text


@pytest.mark.parametrize("requeue", [False, True])
def test_a_message_is_rejected_although_the_server_takes_no_writes_at_that_moment(
    connect: Connect, client: Any, requeue: bool
) -> None:
    """A job that could not be put back for that very reason is; its worker would hold the message while it lives."""
    connection = connect(unacked_restore_interval=0.2)
    send(connection, "work")
    held = get(connection)
    client.config_set("min-replicas-to-write", 1)
    try:
        held.reject_log_error(logging.getLogger(__name__), connection.connection_errors, requeue=requeue)
        assert connection.default_channel.qos.tags() == [held.delivery_tag], "still held"
    finally:
        client.config_set("min-replicas-to-write", 0)
    wait_until(lambda: not client.hlen("unacked"), 5)
    again = get(connection)
    if requeue:
        assert again.headers["x-delivery-count"] == 1, "the delivery counts"
    else:
        assert again is None


@pytest.mark.skipif(not hasattr(kombus.Channel, "_flush_brpop_reauth"), reason="needs kombu that authenticates anew")
def test_a_consumer_that_is_never_idle_takes_over_a_new_token(connect: Connect, client: Any) -> None:
    """Of a provider whose tokens run out: a server ends the connections that keep the old one."""
    from redis.auth.token import SimpleToken

    client.acl_setuser("rotating", enabled=True, passwords=["+new"], keys=["*"], channels=["*"], commands=["+@all"])
    connection = connect()
    channel = connection.default_channel
    send(connection, *"abc")
    try:
        with Consumer(channel, [Queue("jobs")], on_message=lambda message: message.ack()):
            connection.drain_events(timeout=5)
            used = channel.client.connection
            used.set_re_auth_token(SimpleToken("new", -1, 0, {"oid": "rotating"}))
            connection.drain_events(timeout=5)
            [mine] = [one for one in client.client_list() if one["addr"].endswith(f":{used._sock.getsockname()[1]}")]
            assert mine["user"] == "rotating"
            connection.drain_events(timeout=5)
    finally:
        client.acl_deluser("rotating")


@pytest.mark.parametrize("key", ["unacked", "unacked_index"])
def test_nothing_is_taken_where_it_cannot_be_recorded(connect: Connect, client: Any, key: str) -> None:
    connection = connect()
    send(connection, "work")
    client.set(key, "of another type")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        get(connection)
    assert client.llen("jobs") == 1


def test_a_server_whose_memory_is_full_can_be_emptied(private_server: Callable[[str], Any], connect: Connect) -> None:
    import redis

    server = private_server("redis")
    connection = connect(server.url)
    send(connection, *["x" * 1000] * 20)
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
        with pytest.raises(ResponseError, match="maxmemory"):
            send(connection, "no room")
        message = get(connection)
        message.reject(requeue=True)
        assert len(consume(connection, "jobs", count=20, auto_declare=False)) == 20


def test_a_server_that_forgot_the_scripts_is_told_again(connect: Connect, client: Any) -> None:
    connection = connect()
    send(connection, "a", "b", "c")
    seen: list[Any] = []
    with Consumer(connection.default_channel, [Queue("jobs")], callbacks=[lambda body, _: seen.append(body)]):
        connection.drain_events(timeout=5)
        client.script_flush()
        connection.drain_events(timeout=5)
    client.script_flush()
    assert get(connection).payload == "c"
    assert seen == ["a", "b"]
    assert client.script_exists(script("reserve").digest) == [True]


@pytest.mark.skipif(
    not hasattr(kombus.Channel, "_maybe_update_queues_expire"), reason="needs kombu with queues that expire on Redis"
)
def test_getting_from_a_queue_keeps_it_from_expiring(connect: Connect, client: Any) -> None:
    connection = connect()
    Queue("short", expires=60, channel=connection.default_channel).declare()
    send(connection, "a", "b", queue="short")
    client.pexpire("short", 1000)
    get(connection, "short")
    assert client.pttl("short") > 30_000


def test_a_client_is_made_once_for_each_pool(connect: Connect) -> None:
    """Making one takes longer than publishing by it does."""
    connection = connect()
    channel = connection.default_channel
    first = channel._create_client()
    assert channel._create_client() is first
    send(connection, "a body")
    channel._disconnect_pools()
    second = channel._create_client()
    assert second is not first
    assert second.llen("jobs") == 1
