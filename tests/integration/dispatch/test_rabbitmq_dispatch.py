"""A batch's dispatch on RabbitMQ: one channel, with publisher confirms where the app asks for them."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from amqp.exceptions import MessageNacked
from celery import Celery
from celery._state import _task_stack
from celery.signals import after_task_publish
from kombu import Producer, Queue
from kombu.exceptions import OperationalError

from celery_laravel import Bus, install
from celery_laravel.dispatch import members
from celery_laravel.errors import BatchDispatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.rabbitmq

SLICE = 10


@pytest.fixture
def make_app(rabbitmq_url: str) -> Iterator[Callable[..., Celery]]:
    """A function that makes an app whose one queue has the arguments given, by way of another URL if one is given."""
    apps: list[Celery] = []

    def make(url: str = rabbitmq_url, *, confirms: bool = True, ignores: bool = True, **arguments: Any) -> Celery:
        app = Celery("bulk", broker=url, set_as_current=False)
        name = f"bulk-{uuid4().hex}"
        app.conf.update(
            laravel_store="memory://",
            task_queues=[Queue(name, queue_arguments=arguments)],
            task_default_queue=name,
            task_ignore_result=ignores,
            broker_transport_options={"confirm_publish": confirms},
        )
        install(app)
        app.task(shared=False, name="one")(one)
        apps.append(app)
        return app

    yield make
    for app in apps:
        with app.connection_for_write(rabbitmq_url) as connection:
            connection.default_channel.queue_delete(app.conf.task_default_queue)
        app.close()


def one(number: int) -> None:
    """A task of one argument."""


def waiting(app: Celery, url: str) -> int:
    """How many messages wait in the app's queue."""
    with app.connection_for_read(url) as connection:
        return int(connection.default_channel.queue_declare(app.conf.task_default_queue, passive=True).message_count)


@pytest.mark.parametrize("confirms", [True, False])
def test_all_go_through_one_channel(
    make_app: Callable[..., Celery], rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch, confirms: bool
) -> None:
    app, channels = make_app(confirms=confirms), []
    publish = Producer._publish

    def spy(producer: Any, *args: Any, **kwargs: Any) -> Any:
        result = publish(producer, *args, **kwargs)
        channels.append(id(producer.channel))
        return result

    monkeypatch.setattr(Producer, "_publish", spy)
    batch = Bus(app).batch(app.tasks["one"].s(number) for number in range(25)).dispatch()
    assert channels == channels[:1] * 25
    assert (batch.total_jobs, batch.pending_jobs) == (25, 25)
    if confirms:
        assert waiting(app, rabbitmq_url) == 25, "each has been confirmed"


def test_a_message_that_the_broker_refuses_cancels_the_batch(
    make_app: Callable[..., Celery], rabbitmq_url: str
) -> None:
    app = make_app(**{"x-max-length": 7, "x-overflow": "reject-publish"})
    with pytest.raises(BatchDispatchError, match="after 7 jobs") as raised:
        Bus(app).batch(app.tasks["one"].s(number) for number in range(SLICE)).dispatch()
    assert isinstance(raised.value.__cause__, OperationalError), "after Celery's retries, see task_publish_retry_policy"
    assert isinstance(raised.value.__cause__.__cause__, MessageNacked)
    assert (raised.value.sent, waiting(app, rabbitmq_url)) == (7, 7)
    (batch,) = Bus(app).batches()
    assert (batch.total_jobs, batch.pending_jobs, batch.skipped_jobs, batch.cancelled) == (10, 7, 3, True)


def test_a_broker_that_goes_away_midway_cancels_the_batch(
    make_app: Callable[..., Celery], rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "SLICE", SLICE)
    with gate(rabbitmq_url) as (url, shut):
        app = make_app(url)

        def jobs() -> Iterator[Any]:
            for number in range(3 * SLICE):
                if number == 2 * SLICE - 1:  # while the second slice is taken
                    shut()
                yield app.tasks["one"].s(number)

        with pytest.raises(BatchDispatchError, match=f"after {SLICE} jobs") as raised:
            Bus(app).batch(jobs()).dispatch()
    assert (raised.value.sent, waiting(app, rabbitmq_url)) == (SLICE, SLICE)
    (batch,) = Bus(app).batches()
    assert (batch.total_jobs, batch.pending_jobs, batch.skipped_jobs, batch.cancelled) == (20, 10, 10, True)


def test_a_connection_that_is_lost_midway_is_made_again_and_no_job_is_two(
    make_app: Callable[..., Celery], rabbitmq_url: str
) -> None:
    """What had not been confirmed goes out once more: it may be there twice, under one id."""
    with gate(rabbitmq_url) as (url, shut):
        app, sent = make_app(url), []

        def cut(headers: dict[str, Any], **_: Any) -> None:
            sent.append(headers["id"])
            if len(sent) == SLICE // 2:
                shut(for_good=False)

        after_task_publish.connect(cut)
        try:
            batch = Bus(app).batch(app.tasks["one"].s(number) for number in range(SLICE)).dispatch()
        finally:
            after_task_publish.disconnect(cut)
    assert (batch.total_jobs, batch.pending_jobs, batch.cancelled) == (SLICE, SLICE, False)
    with app.connection_for_read(rabbitmq_url) as connection:
        found = [(m.headers["id"], m.headers["laravel"].get("index", 0)) for m in messages(connection, app)]
    assert (len(set(found)), {index for _, index in found}) == (SLICE, set(range(SLICE)))
    assert len(sent) > SLICE, "some were sent twice"


def test_a_connection_that_was_lost_before_is_made_again(make_app: Callable[..., Celery], rabbitmq_url: str) -> None:
    """As one that has been idle for long, in a pool."""
    with gate(rabbitmq_url) as (url, shut):
        app = make_app(url)
        for _ in range(2):
            assert Bus(app).batch([app.tasks["one"].s(1)]).dispatch().pending_jobs == 1
            shut(for_good=False)
    assert waiting(app, rabbitmq_url) == 2


@pytest.mark.parametrize("confirms", [True, False])
def test_what_was_sent_before_a_job_that_cannot_be_is_counted(
    make_app: Callable[..., Celery], rabbitmq_url: str, confirms: bool
) -> None:
    app, before = make_app(confirms=confirms), 3
    jobs = [app.tasks["one"].s(number) for number in range(SLICE)]
    jobs[before] = app.tasks["one"].s("too", "many")
    with pytest.raises(BatchDispatchError, match=f"after {before} jobs") as raised:
        Bus(app).batch(jobs).dispatch()
    assert isinstance(raised.value.__cause__, TypeError)
    assert [number for number, _ in taken(app, rabbitmq_url)] == list(range(before))
    (batch,) = Bus(app).batches()
    assert (batch.pending_jobs, batch.skipped_jobs, batch.cancelled) == (before, SLICE - before, True)


def test_without_confirms_too_a_lost_connection_is_made_again(
    make_app: Callable[..., Celery], rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, channels = make_app(confirms=False), []
    publish = Producer._publish

    def lose(producer: Any, *args: Any, **kwargs: Any) -> Any:
        channels.append(producer.channel)
        if len(channels) == SLICE // 2:
            producer.channel.connection.transport.sock.shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        return publish(producer, *args, **kwargs)

    monkeypatch.setattr(Producer, "_publish", lose)
    batch = Bus(app).batch(app.tasks["one"].s(number) for number in range(SLICE)).dispatch()
    assert (batch.pending_jobs, batch.cancelled) == (SLICE, False)
    assert channels[-1] is not channels[0]
    assert taken(app, rabbitmq_url) == [(number, number) for number in range(SLICE)]


@pytest.mark.parametrize("confirms", [True, False])
def test_the_result_backend_and_the_dispatching_job_are_told_of_each(
    make_app: Callable[..., Celery], rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch, confirms: bool
) -> None:
    app, told = make_app(confirms=confirms, ignores=False), []
    monkeypatch.setattr(type(app.backend), "on_task_call", lambda *call: told.append(call[2]), raising=False)
    task = app.tasks["one"]
    task.push_request(id="parent", root_id="root", called_directly=False, children=[], delivery_info={})
    _task_stack.push(task)
    try:
        Bus(app).batch(task.s(number) for number in range(SLICE)).dispatch()
        children = [child.id for child in task.request.children]
    finally:
        _task_stack.pop()
        task.pop_request()
    with app.connection_for_read(rabbitmq_url) as connection:
        found = [message.headers for message in messages(connection, app)]
    assert told == children == [headers["id"] for headers in found]
    assert {(headers["root_id"], headers["parent_id"]) for headers in found} == {("root", "parent")}


def messages(connection: Any, app: Celery) -> Iterator[Any]:
    """Take every message out of the app's queue."""
    channel = connection.default_channel
    return iter(lambda: channel.basic_get(app.conf.task_default_queue, no_ack=True), None)


def taken(app: Celery, url: str) -> list[tuple[int, int]]:
    """Take every message out of the app's queue: its argument, and the member's index."""
    with app.connection_for_read(url) as connection:
        return [
            (json.loads(message.body)[0][0], message.headers["laravel"]["index"])
            for message in messages(connection, app)
        ]


@contextmanager
def gate(url: str) -> Iterator[tuple[str, Callable[..., None]]]:
    """A port that leads to a broker, and a function that cuts what goes through and, mostly, bars the way for good."""
    place = urlsplit(url)
    server = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection((place.hostname or "127.0.0.1", place.port or 5672))
                open_sockets.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    def shut(*, for_good: bool = True) -> None:
        for open_socket in [*open_sockets, server] if for_good else list(open_sockets):
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()

    threading.Thread(target=accept, daemon=True).start()
    credentials = f"{place.netloc.rpartition('@')[0]}@" if "@" in place.netloc else ""
    try:
        yield place._replace(netloc=f"{credentials}127.0.0.1:{server.getsockname()[1]}").geturl(), shut
    finally:
        shut()
