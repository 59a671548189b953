"""An idle consumer is woken, takes nothing while it waits, and does not poll."""

from __future__ import annotations

import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from kombu import Connection, Consumer, Queue
from redis.exceptions import ConnectionError as RedisConnectionError

from celery_laravel.testing.processes import wait_until
from celery_laravel.transport.redis import reservation as reservations
from tests.transport.redis_broker.conftest import send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Connect = Callable[..., Connection]

pytestmark = [pytest.mark.matrix, pytest.mark.redis]


class Idle:
    """A consumer of two queues that found them empty and waits."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.seen: list[Any] = []
        queues = [Queue("jobs"), Queue("other")]
        self.consumer = Consumer(connection.default_channel, queues, on_message=self.take)
        self.consumer.consume()
        self.wait_in_vain()

    def take(self, message: Any) -> None:
        self.seen.append(message.payload)
        message.ack()

    def wait_in_vain(self, timeout: float = 0.1) -> None:
        with pytest.raises(TimeoutError):
            self.connection.drain_events(timeout=timeout)

    def next(self) -> Any:
        self.connection.drain_events(timeout=20)
        return self.seen[-1]

    @property
    def reservation(self) -> Any:
        return self.connection.default_channel.reservation


@pytest.fixture
def only_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not woken sleeps for the rest of the test."""
    monkeypatch.setattr(reservations, "LOOK_INTERVAL", 1e9)


@pytest.fixture
def limited_url(broker_url: str, client: Any) -> Iterator[str]:
    """The broker as a user who may not be told of changes."""
    client.acl_setuser(
        "limited", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all", "-client"]
    )
    parts = urlsplit(broker_url)
    yield urlunsplit(parts._replace(netloc=f"limited:secret@{parts.netloc}"))
    client.acl_deluser("limited")


def calls(client: Any) -> dict[str, int]:
    return {name.removeprefix("cmdstat_"): of["calls"] for name, of in client.info("commandstats").items()}


@pytest.mark.usefixtures("only_woken")
def test_a_message_of_any_queue_and_priority_wakes_from_whomever_it_comes(
    connect: Connect, connect_plainly: Connect
) -> None:
    idle, plain = Idle(connect()), connect_plainly()
    for number, (queue, priority) in enumerate([("jobs", 0), ("other", 9), ("jobs", 6), ("other", 3)]):
        send(plain, number, queue=queue, priority=priority)
        assert idle.next() == number
        idle.wait_in_vain()


@pytest.mark.usefixtures("only_woken")
def test_a_message_that_is_given_back_wakes_others(connect: Connect) -> None:
    holder, idle = connect(), Idle(connect())
    send(holder, "work")
    message = holder.default_channel.basic_get("jobs")
    if message is not None:  # or the idle one was faster, which it may be
        message.requeue()
    assert idle.next() == "work"


@pytest.mark.usefixtures("only_woken")
def test_a_message_that_comes_between_a_look_and_the_wait_is_found(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = connect()
    arm = reservations.Reservation._arm

    def late(self: Any, connection: Any) -> bool:
        send(other, "just missed")
        monkeypatch.setattr(reservations.Reservation, "_arm", arm)
        return arm(self, connection)

    connection = connect()
    seen: list[Any] = []
    monkeypatch.setattr(reservations.Reservation, "_arm", late)
    with Consumer(connection.default_channel, [Queue("jobs")], on_message=seen.append):
        connection.drain_events(timeout=20)
    assert [message.payload for message in seen] == ["just missed"]


@pytest.mark.usefixtures("only_woken")
def test_being_woken_before_the_answer_that_begins_the_wait_is_not_forgotten(connect: Connect) -> None:
    """Both arrive on connections of their own, and may be read in either order."""
    idle, other = Idle(connect()), connect()
    reservation = idle.reservation
    reservation.look_soon()
    cycle = idle.connection.transport.cycle
    cycle.on_poll_start()  # a look
    assert reservation.read() is None
    assert reservation._sent == "arm"
    send(other, "work")
    while not cycle.poller.poll(5):
        pass
    reservation.look_soon()  # what reading the wake-up does
    assert reservation.read() is None
    assert idle.next() == "work"


def test_waiting_costs_the_server_nothing(connect: Connect, client: Any) -> None:
    idle = Idle(connect())
    before = calls(client)
    idle.wait_in_vain(timeout=2)
    after = calls(client)
    spent = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
    assert sum(count for name, count in spent.items() if name not in {"info", "zrange", "time"}) <= 2, spent


def test_a_wait_takes_no_message_out_of_its_list(connect: Connect, client: Any) -> None:
    """kombu's BRPOP hands it to a consumer that may be dead by then."""
    idle = Idle(connect())
    send(connect(), "work")
    assert client.llen("jobs") == 1
    assert client.exists("unacked") == 0
    assert idle.next() == "work"


def test_a_consumer_without_room_is_not_kept_awake(connect: Connect, client: Any) -> None:
    """What wakes it is read all the same; left unread, it would end every sleep."""
    connection = connect()
    held: list[Any] = []
    with Consumer(connection.default_channel, [Queue("jobs")], on_message=held.append, prefetch_count=1):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        send(connect(), "a", "b")
        connection.drain_events(timeout=20)
        turns = 0
        poll = connection.transport.cycle.poller.poll

        def counted(timeout: float | None = None) -> Any:
            nonlocal turns
            turns += 1
            return poll(timeout)

        connection.transport.cycle.poller.poll = counted
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=1)
        assert turns <= 4
        assert client.llen("jobs") == 1
        held[0].ack()
        connection.drain_events(timeout=20)
    assert [message.payload for message in held] == ["a", "b"]


def test_without_being_woken_a_consumer_looks_after_a_while(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations, "LOOK_INTERVAL", 0.3)
    idle = Idle(connect())
    # Gone without a word: nothing is ever heard of it again.
    idle.connection.transport.cycle.poller.unregister(idle.reservation._wake_up.socket)
    send(connect(), "work")
    assert idle.next() == "work"


def test_a_server_that_may_not_wake_us_is_asked_often_and_named_once(
    connect: Connect, limited_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        idle = Idle(connect(limited_url))
        for number, queue in enumerate(["jobs", "other", "other", "jobs"]):
            send(connect(), number, queue=queue, priority=number)
            assert idle.next() == number
    assert [record.message for record in caplog.records if "CLIENT TRACKING" in record.message] == caplog.messages
    assert len(caplog.messages) == 1


def test_the_wait_on_such_a_server_leaves_the_order_of_messages_alone(connect: Connect, limited_url: str) -> None:
    idle = Idle(connect(limited_url))
    send(connect(), *"abc", queue="jobs")
    for _ in range(3):
        idle.next()
    assert idle.seen == ["a", "b", "c"]


def test_a_lost_wake_up_connection_is_replaced_and_ends_nothing(
    connect: Connect, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make an error of it would be to give back what the consumer works on."""
    monkeypatch.setattr(reservations, "LOOK_INTERVAL", 0.3)
    idle = Idle(connect())
    lost = idle.reservation._wake_up
    client.client_kill_filter(_id=str(lost._redirect))
    idle.wait_in_vain()
    send(connect(), "at once")
    assert idle.next() == "at once"
    idle.wait_in_vain(timeout=0.6)
    assert idle.reservation._wake_up not in {None, lost}
    monkeypatch.setattr(reservations, "LOOK_INTERVAL", 1e9)
    idle.wait_in_vain(timeout=0.4)
    send(connect(), "woken")
    assert idle.next() == "woken"


def test_a_wake_up_connection_that_does_not_answer_is_replaced(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies forget connections that are quiet for long, and tell neither end."""
    monkeypatch.setattr(reservations, "LOOK_INTERVAL", 0.2)
    monkeypatch.setattr(reservations, "QUIET", 0.2)
    idle = Idle(connect())
    forgotten = idle.reservation._wake_up
    idle.wait_in_vain(timeout=1)
    assert idle.reservation._wake_up is forgotten, "the server answers"
    ours, nobodys = socket.socketpair()
    ours.setblocking(False)
    before, forgotten.connection._sock = forgotten.connection._sock, ours

    def is_replaced() -> bool:
        idle.wait_in_vain()
        return idle.reservation._wake_up not in {None, forgotten}

    wait_until(is_replaced)
    for sock in (before, nobodys):
        sock.close()


def test_a_sign_of_life_is_not_taken_for_a_message(
    connect: Connect, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservations, "QUIET", 0.0)
    idle = Idle(connect())
    idle.reservation.look_soon()
    idle.wait_in_vain()
    before = calls(client)
    idle.wait_in_vain(timeout=0.5)
    assert calls(client).get("evalsha") == before.get("evalsha")
    assert idle.reservation._wake_up._pinged_at is None, "answered"


def test_a_consumer_without_room_is_not_cut_off_for_its_silence(
    connect: Connect, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would give back the job that has run for so long."""
    monkeypatch.setattr(reservations, "LOOK_INTERVAL", 0.3)
    connection = connect()
    held: list[Any] = []
    with Consumer(connection.default_channel, [Queue("jobs")], on_message=held.append, prefetch_count=1):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        send(connect(), "a", "b")
        connection.drain_events(timeout=20)
        client.config_set("timeout", 1)
        try:
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=3)
        finally:
            client.config_set("timeout", 0)
        held[0].ack()
        connection.drain_events(timeout=20)
    assert [message.payload for message in held] == ["a", "b"]


def test_a_forked_child_has_no_part_in_being_woken(connect: Connect) -> None:
    idle = Idle(connect())
    descriptor = idle.reservation._wake_up.socket.fileno()
    child = os.fork()
    if not child:
        try:
            idle.connection.default_channel._after_fork()  # what billiard calls
            os.fstat(descriptor)
            os._exit(1)
        except OSError as error:
            os._exit(0 if error.errno == errno.EBADF else 2)
        except BaseException:
            os._exit(3)
    assert os.waitpid(child, 0)[1] == 0
    send(connect(), "work")
    assert idle.next() == "work"


def test_a_lost_connection_of_an_idle_consumer_is_an_error_and_replaced(connect: Connect, client: Any) -> None:
    idle = Idle(connect())
    connection = idle.connection.default_channel.client.connection
    [mine] = [one for one in client.client_list() if one["addr"].endswith(f":{connection._sock.getsockname()[1]}")]
    client.client_kill_filter(_id=mine["id"])
    with pytest.raises(RedisConnectionError, match="idle consumer"):
        idle.connection.drain_events(timeout=20)
    send(connect(), "work")
    assert idle.next() == "work"
    idle.wait_in_vain()
    send(connect(), "more")
    assert idle.next() == "more"


def test_nothing_of_a_closed_connection_is_left(connect: Connect, client: Any) -> None:
    def made_since() -> set[str]:
        return {one["id"] for one in client.client_list()} - before

    before: set[str] = {one["id"] for one in client.client_list()}
    idle = Idle(connect())
    assert made_since()
    idle.connection.close()
    wait_until(lambda: not made_since())
