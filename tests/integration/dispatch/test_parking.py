"""What waits in the store instead of a worker, and that it comes out as plain Celery would have sent it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, signals
from celery.events import EventDispatcher
from kombu import Exchange, Queue
from kombu.common import Broadcast
from redis import Redis

from celery_laravel import Bus, clock, install
from celery_laravel.dispatch import parking
from celery_laravel.errors import ConfigurationError, StoreUnavailableError
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.factory import store_of
from celery_laravel.testing.processes import wait_until
from celery_laravel.testing.store_suite.delays import delayed
from celery_laravel.worker.delays import Mover

HOUR = 3600.0
SOON = 0.4
"""Seconds: longer than the least delay that these apps park, and no time to wait for."""

_REDIS = pytest.mark.redis
KINDS = [
    pytest.param(("redis", "redis"), marks=_REDIS, id="redis-redis"),
    pytest.param(("redis", "sqlite"), marks=_REDIS, id="redis-sqlite"),
    pytest.param(("rabbitmq", "redis"), marks=[_REDIS, pytest.mark.rabbitmq], id="rabbitmq-redis"),
    pytest.param(("rabbitmq", "sqlite"), marks=pytest.mark.rabbitmq, id="rabbitmq-sqlite"),
]


def anything(*args: Any, **kwargs: Any) -> None:
    """A task that takes whatever it is given."""


@dataclass
class Place:
    """A plain app and one that parks, on the same broker and queue."""

    plain: Celery
    app: Celery
    queue: str

    def both(self) -> tuple[Celery, Celery]:
        return self.plain, self.app

    def move(self, count: int = 1) -> None:
        """Move so many parked messages, as a worker would."""
        mover = Mover(self.app)
        before = store_of(self.app).delays.count()
        try:
            wait_until(lambda: mover.move() or store_of(self.app).delays.count() <= before - count, 15)
        finally:
            mover.close()

    def take(self) -> list[Any]:
        """Take all messages out of the apps' own queue."""
        return self.take_from(self.queue)

    def take_from(self, name: str) -> list[Any]:
        found = []
        with self.plain.connection_for_read() as connection:
            queue = Queue(name, Exchange(""), name)(connection.default_channel)
            queue.queue_declare()
            while (message := queue.get(no_ack=True)) is not None:
                found.append(message)
        return found


def make_place(request: pytest.FixtureRequest, broker: str, store: str, tmp_path: Any) -> Iterator[Place]:
    queue = f"park-{uuid4().hex[:12]}"
    store_url = f"sqlite:///{tmp_path}/store.db" if store == "sqlite" else request.getfixturevalue("redis_url")
    broker_url = broker if "://" in broker else request.getfixturevalue(f"{broker}_url")
    apps: list[Celery] = []
    for _ in range(2):
        app = Celery(f"park-{len(apps)}", broker=broker_url, set_as_current=False)
        app.conf.update(task_default_queue=queue, task_ignore_result=True)
        if broker == "redis":
            app.conf.broker_transport_options = {"global_keyprefix": f"{queue}:"}
        apps.append(app)
    plain, app = apps
    app.conf.update(laravel_store=store_url, laravel_prefix=queue, laravel_durable_delay=0.2)
    install(app)
    for each in apps:
        each.task(anything, name="anything", shared=False)
    place = Place(plain, app, queue)
    yield place
    records = store_of(app).delays.all()
    store_of(app).delays.remove([record.entry for record in records])
    store_of(app).close()
    with plain.connection_for_write() as connection:
        connection.default_channel.queue_delete(queue)
    for each in apps:
        each.close()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Place]:
    broker, store = request.param
    yield from make_place(request, broker, store, tmp_path)


@pytest.fixture
def on_redis(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Place]:
    yield from make_place(request, "redis", "redis", tmp_path)


def whole(message: Any) -> dict[str, Any]:
    """All of a message as it lies in its queue, but for the tag of its delivery."""
    properties = {key: value for key, value in message.properties.items() if key != "delivery_tag"}
    delivery = {key: message.delivery_info.get(key) for key in ("exchange", "routing_key")}
    return {
        "body": message.body,
        "content": (message.content_type, message.content_encoding),
        "headers": list(message.headers.items()) if message.properties.get("delivery_tag") else dict(message.headers),
        "properties": properties,
        "delivery": delivery,
    }


CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "arguments": {
        "args": [1, "naïve 🚀", {"deep": [None, 2.5]}],
        "kwargs": {"key": "välue", "when": datetime(2026, 1, 2, tzinfo=timezone.utc)},
    },
    "options": {
        "priority": 7,
        "shadow": "another name",
        "time_limit": 30,
        "soft_time_limit": 20,
        "retries": 2,
        "headers": {"mine": "is kept", "deep": {"a": [1, None]}},
        "argsrepr": "hidden",
        "group_id": "group",
        "group_index": 3,
        "root_id": "root",
        "parent_id": "parent",
        "ignore_result": True,
    },
    "pickled": {"args": [{1, 2}], "serializer": "pickle", "compression": "zlib"},
    "transient": {"delivery_mode": 1},
    "stamped": {"stamped_headers": ["owner"], "owner": "me", "stamps": {"owner": "me"}},
    "expiring": {"expires": datetime.now(timezone.utc) + timedelta(days=3)},
}


@pytest.mark.parametrize("name", CALLS)
def test_what_comes_out_is_the_message_of_plain_celery(place: Place, name: str) -> None:
    call = {"args": [], "task_id": str(uuid4()), "reply_to": "somebody", **CALLS[name]}
    sent = []
    for app in place.both():
        later = {"countdown": SOON} if app is place.app else {}
        app.tasks["anything"].apply_async(**call, **later)
        if later:
            assert place.take() == []
            place.move()
        (message,) = place.take()
        sent.append(whole(message))
        sent[-1]["properties"].pop("expiration", None)  # what was left of ``expires`` at the moment of the dispatch
    assert sent[0] == sent[1]


def test_what_is_linked_and_chained_is_kept(place: Place) -> None:
    task_id, bodies = str(uuid4()), []
    for app in place.both():
        other = app.signature("anything", (1,), task_id="linked", immutable=True)
        later = {"countdown": SOON} if app is place.app else {}
        app.tasks["anything"].apply_async((1,), task_id=task_id, link=other, link_error=other, chain=[other], **later)
        if later:
            place.move()
        (message,) = place.take()
        bodies.append(message.body)
    assert bodies[0] == bodies[1]


def test_a_message_goes_where_plain_celery_sends_it(place: Place) -> None:
    other = f"{place.queue}-other"
    exchange = Exchange(f"{place.queue}-topic", "topic")
    bound = [Queue(f"{place.queue}-{key}", exchange, routing_key=key) for key in ("a.*", "a.b", "b.*")]
    with place.plain.connection_for_write() as connection:
        for queue in bound:
            queue(connection.default_channel).declare()
    names = [other, place.queue, *(queue.name for queue in bound)]
    counts = []
    for app in place.both():
        later = {"countdown": SOON} if app is place.app else {}
        with app.producer_pool.acquire(block=True) as producer:
            exchange(producer.channel).declare()
            options = {"producer": producer, **later}
            app.tasks["anything"].apply_async(queue=other, **options)
            app.tasks["anything"].apply_async(exchange=exchange, routing_key="a.b", **options)
        if later:
            place.move(len(store_of(app).delays.all()))
        counts.append([len(place.take_from(queue)) for queue in names])
    assert counts == [[1, 0, 1, 1, 0]] * 2
    with place.plain.connection_for_write() as connection:
        for queue in bound:
            queue(connection.default_channel).delete()


def test_a_message_for_everybody_is_published_when_it_is_due(on_redis: Place) -> None:
    """One to a fanout exchange is in no list that could be pushed to."""
    everybody = Broadcast(f"{on_redis.queue}-everybody")
    heard: list[Any] = []
    with (
        on_redis.plain.connection_for_read() as connection,
        connection.Consumer([everybody], callbacks=[lambda _, m: heard.append(m)], no_ack=True, accept=["json"]),
        on_redis.app.producer_pool.acquire(block=True) as producer,
    ):
        everybody.exchange(producer.channel).declare()
        task, name = on_redis.app.tasks["anything"], everybody.exchange.name
        task.apply_async(countdown=SOON, exchange=name, routing_key=name, producer=producer)
        (record,) = store_of(on_redis.app).delays.all()
        assert record.target is None
        assert json.loads(record.message)["exchange"] == name
        assert heard == []


@pytest.mark.parametrize("how", ["eta", "text", "naive", "send_task", "signature", "by_name", "chain"])
def test_every_way_to_delay_a_job_is_parked(on_redis: Place, how: str) -> None:
    app, task = on_redis.app, on_redis.app.tasks["anything"]
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    dispatches: dict[str, Callable[[], Any]] = {
        "eta": lambda: task.apply_async(eta=later),
        "text": lambda: task.apply_async(eta=later.isoformat()),
        "naive": lambda: task.apply_async(eta=later.replace(tzinfo=None)),
        "send_task": lambda: app.send_task("anything", countdown=HOUR),
        "by_name": lambda: app.send_task("of.another.worker", countdown=HOUR),
        "signature": lambda: task.si().set(countdown=HOUR).delay(),
        "chain": (task.si().set(countdown=HOUR) | task.si()).apply_async,
    }
    dispatches[how]()
    (job,) = Bus(app).delayed.all()
    assert abs((job.due_at - later).total_seconds()) < 60
    assert on_redis.take() == []


def test_a_short_delay_waits_in_a_worker_as_ever(on_redis: Place) -> None:
    on_redis.app.conf.laravel_durable_delay = 60
    runtime_of(on_redis.app).forget()
    for delay in (None, 0, 1, 50):
        on_redis.app.tasks["anything"].apply_async(countdown=delay)
    on_redis.app.tasks["anything"].apply_async(eta=datetime.now(timezone.utc) - timedelta(hours=1))
    assert Bus(on_redis.app).delayed.count() == 0
    assert [bool(message.headers["eta"]) for message in on_redis.take()] == [False, False, True, True, True]
    on_redis.app.tasks["anything"].apply_async(countdown=60)
    assert Bus(on_redis.app).delayed.count() == 1


def test_a_delay_is_counted_from_its_dispatch_however_long_that_takes(
    on_redis: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first dispatch of a process connects, to a broker that may be slow."""
    app, passed = on_redis.app, 0.0
    acquire, now = app.producer_or_acquire, clock.now

    def slowly(*arguments: Any) -> Any:
        nonlocal passed
        passed = 30.0
        return acquire(*arguments)

    app.conf.laravel_durable_delay = 60
    runtime_of(app).forget()
    monkeypatch.setattr(app, "producer_or_acquire", slowly)
    monkeypatch.setattr(clock, "now", lambda: now() + passed)
    app.tasks["anything"].apply_async(countdown=60)
    (job,) = Bus(app).delayed.all()
    assert 20 < (job.due_at - job.parked_at).total_seconds() <= 30


def test_signals_and_the_event_of_a_sent_task_tell_of_the_delay(
    on_redis: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_redis.app.conf.task_send_sent_event = True
    told: list[Any] = []

    def before(headers: Any = None, **_: Any) -> None:
        headers["added"] = "by a receiver"
        told.append(("before", bool(headers["eta"])))

    def after(headers: Any = None, **_: Any) -> None:
        told.append(("after", bool(headers["eta"])))

    def event(_: Any, kind: str, fields: Any, producer: Any, **options: Any) -> None:
        told.append((kind, bool(fields["eta"])))
        producer.publish(
            {"an": "event"}, exchange="", routing_key=f"{on_redis.queue}-events", headers={"hostname": "me"}
        )

    monkeypatch.setattr(EventDispatcher, "publish", event)
    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        on_redis.app.tasks["anything"].apply_async(countdown=SOON)
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    assert told == [("before", True), ("after", True), ("task-sent", True)]
    assert len(on_redis.take_from(f"{on_redis.queue}-events")) == 1
    on_redis.move()
    (message,) = on_redis.take()
    assert (message.headers["added"], message.headers["eta"]) == ("by a receiver", None)


def test_members_of_a_batch_are_parked_together(on_redis: Place) -> None:
    task = on_redis.app.tasks["anything"]
    batch = (
        Bus(on_redis.app).batch([task.s(n).set(countdown=HOUR) if n % 2 else task.s(n) for n in range(20)]).dispatch()
    )
    assert (batch.total_jobs, batch.pending_jobs) == (20, 20)
    waiting = Bus(on_redis.app).delayed.all()
    assert {job.args_repr for job in waiting} == {f"({n},)" for n in range(1, 20, 2)}
    assert {job.batch_id for job in waiting} == {batch.id}
    assert len(on_redis.take()) == 10
    (record,) = store_of(on_redis.app).delays.all(limit=1)
    assert json.loads(record.message)["headers"]["laravel"]["batch_id"] == batch.id


def test_a_dispatch_without_the_store_raises_and_sends_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise StoreUnavailableError("redis://nowhere")

    monkeypatch.setattr(store_of(place.app).delays, "park", away)
    with pytest.raises(StoreUnavailableError):
        place.app.tasks["anything"].apply_async(countdown=HOUR)
    assert place.take() == []
    place.app.tasks["anything"].delay()
    assert len(place.take()) == 1


def test_a_job_that_puts_itself_back_without_the_store_waits_in_a_worker(
    on_redis: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> None:
        raise StoreUnavailableError("redis://nowhere")

    monkeypatch.setattr(store_of(on_redis.app).delays, "park", away)
    monkeypatch.setattr(parking, "_is_running", lambda task_id: task_id == "running")
    with caplog.at_level(logging.WARNING, "celery_laravel"):
        on_redis.app.tasks["anything"].apply_async(countdown=HOUR, task_id="running")
    (message,) = on_redis.take()
    assert message.headers["eta"]
    assert "waits in a worker" in caplog.text


def test_what_is_sent_to_another_broker_is_not_parked(on_redis: Place, redis_url: str) -> None:
    """Nobody would know where to publish it."""
    elsewhere = Celery("elsewhere", broker="memory://", set_as_current=False)
    with elsewhere.connection_for_write() as connection:
        on_redis.app.tasks["anything"].apply_async(countdown=HOUR, connection=connection)
    assert Bus(on_redis.app).delayed.count() == 0


@pytest.mark.rabbitmq
def test_what_is_sent_through_a_named_connection_is_moved_through_it(
    on_redis: Place, rabbitmq_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = on_redis.app
    app.conf.laravel_connections = {"other": rabbitmq_url}
    runtime_of(app).forget()
    app.tasks["anything"].apply_async(countdown=SOON, connection_name="other")
    (record,) = store_of(app).delays.all()
    assert record.target is None
    app.conf.laravel_connections = {}
    runtime_of(app).forget()
    mover = Mover(app)
    wait_until(lambda: mover.move() or "has no name 'other'" in caplog.text, 15)
    mover.close()
    store_of(app).delays.remove([record.entry])
    store_of(app).delays.park([delayed("again", message=record.message, queue=record.queue)])
    app.conf.laravel_connections = {"other": rabbitmq_url}
    runtime_of(app).forget()
    on_redis.move()
    assert on_redis.take() == []
    with app.connection_for_read(rabbitmq_url) as connection:
        queue = Queue(on_redis.queue, Exchange(""), on_redis.queue)(connection.default_channel)
        message = queue.get(no_ack=True)
        assert message is not None
        assert message.headers["task"] == "anything"
        queue.delete()


def test_the_database_broker_keeps_delays_itself(request: pytest.FixtureRequest, tmp_path: Any) -> None:
    for place in make_place(request, f"database+sqlite:///{tmp_path}/broker.db", "sqlite", tmp_path):
        place.app.tasks["anything"].apply_async(countdown=HOUR)
        assert store_of(place.app).delays.count() == 0
        assert Bus(place.app).delayed.count() == 1


def test_a_store_in_memory_keeps_nothing_for_another_process(on_redis: Place) -> None:
    on_redis.app.conf.laravel_store = "memory://"
    runtime_of(on_redis.app).forget()
    on_redis.app.tasks["anything"].apply_async(countdown=HOUR)
    assert len(on_redis.take()) == 1


def test_a_message_that_cannot_be_published_keeps_no_other_waiting(
    request: pytest.FixtureRequest, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for place in make_place(request, "rabbitmq", "sqlite", tmp_path):
        delays = store_of(place.app).delays
        place.app.tasks["anything"].apply_async(countdown=SOON)
        (record,) = delays.all()
        gone = record.message.replace('"exchange": ""', '"exchange": "no-such-exchange"')
        assert gone != record.message
        delays.park(
            [
                delayed("gone", message=gone, queue=""),
                delayed("damaged", message="{"),
                delayed("good", message=record.message),
            ]
        )
        with caplog.at_level(logging.ERROR, "celery_laravel"):
            place.move(2)
        assert len(place.take()) == 2
        assert {left.entry for left in delays.all()} == {"gone", "damaged"}
        assert "no-such-exchange" in caplog.text


def test_keys_and_lists_are_those_of_the_broker(on_redis: Place, redis_url: str) -> None:
    on_redis.app.tasks["anything"].apply_async(countdown=SOON, priority=7)
    (record,) = store_of(on_redis.app).delays.all()
    assert record.target == f"{on_redis.queue}:{on_redis.queue}\x06\x166"
    on_redis.move()
    with Redis.from_url(redis_url) as client:
        assert client.llen(record.target) == 1


def test_tables_that_are_missing_are_told_at_dispatch(postgresql_url: str) -> None:
    app = Celery("park", broker="memory://", set_as_current=False)
    app.conf.update(laravel_store=postgresql_url, laravel_prefix=f"p{uuid4().hex[:8]}")
    install(app)
    task = app.task(anything, name="anything", shared=False)
    with pytest.raises(ConfigurationError, match="laravel migrate"):
        task.apply_async(countdown=HOUR)
    store_of(app).close()
