"""What a batch's dispatch puts into queues, many messages at a time: the same as Celery would, one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.signals import before_task_publish
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_laravel import Bus, Job, install
from celery_laravel.dispatch.letters import LetterForm
from celery_laravel.dispatch.outbox import Outbox
from celery_laravel.dispatch.stencil import Stencil, new_ids
from celery_laravel.errors import BatchDispatchError

BROKERS = [pytest.param("redis", marks=pytest.mark.redis), "sqlite"]
ONE_BY_ONE = [pytest.param(name, marks=pytest.mark.rabbitmq) for name in ("rabbitmq", "rabbitmq-confirms")]
"""Brokers to which a slice's messages go one by one, those before one that cannot be sent included."""

everywhere = pytest.mark.parametrize("app", [*BROKERS, *ONE_BY_ONE], indirect=True)


@pytest.fixture(params=BROKERS)
def app(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Celery]:
    server, _, confirms = request.param.partition("-")
    url = f"database+sqlite:///{tmp_path}/b.db" if server == "sqlite" else request.getfixturevalue(f"{server}_url")
    app = Celery("bulk", broker=url, set_as_current=False)
    if confirms:
        app.conf.broker_transport_options = {"confirm_publish": True}
    app.conf.update(laravel_store="memory://", task_default_queue=f"bulk-{uuid4().hex}", task_ignore_result=True)
    install(app)
    yield app
    for queue in queues_of(app):
        with app.connection_for_write() as connection:
            connection.default_channel.queue_delete(queue)
    app.close()


@pytest.fixture
def take(app: Celery) -> Callable[[], list[Any]]:
    """Take every message out of the app's queues, in order."""

    return lambda: taken_from(app)


@pytest.fixture
def stencils(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The stencils and forms that were made of messages."""
    made: list[Any] = []

    def noting(original: Any) -> Any:
        def spy(cls: Any, *arguments: Any, **options: Any) -> Any:
            stencil = original(cls, *arguments, **options)
            if stencil is not None:
                made.append(stencil)
            return stencil

        return classmethod(spy)

    monkeypatch.setattr(Stencil, "cut", noting(vars(Stencil)["cut"].__func__))
    monkeypatch.setattr(LetterForm, "of", noting(vars(LetterForm)["of"].__func__))
    return made


def taken_from(app: Celery) -> list[Any]:
    """Every message of the app's queues that is due, in order."""
    found = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        for queue in queues_of(app):
            channel.queue_declare(queue, durable=True, auto_delete=False)
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                found.append(message if hasattr(message, "payload") else channel.message_to_python(message))
    return found


def queues_of(app: Celery) -> list[str]:
    return [app.conf.task_default_queue, f"{app.conf.task_default_queue}-other"]


def one(x: Any) -> None:
    """A task of one argument."""


def anything(*args: Any, **kwargs: Any) -> None:
    """A task that takes whatever it is given."""


def one_by_one(app: Celery, jobs: Callable[[], Any]) -> None:
    """Dispatch with somebody looking at each message, for whom Celery makes every one of them."""

    def look(**_: Any) -> None: ...

    before_task_publish.connect(look)
    try:
        Bus(app).batch(jobs()).dispatch()
    finally:
        before_task_publish.disconnect(look)


def comparable(message: Any) -> dict[str, Any]:
    """All of a message but what is random; ids are replaced by whether they are the same."""
    headers = json.loads(json.dumps(message.headers))
    task_id = headers["id"]
    properties = dict(message.properties)
    properties.pop("delivery_tag", None)
    properties.pop("application_headers", None)  # those of AMQP, once more
    properties.pop("expiration", None)  # what is left of ``expires`` at this moment
    assert headers["laravel"].pop("batch_id")
    same = {key: value == task_id for key, value in [*headers.items(), *properties.items()] if key.endswith("_id")}
    for key in ("id", "root_id"):
        headers.pop(key)
    properties.pop("correlation_id")
    return {
        "headers": headers,
        "properties": properties,
        "same": same,
        "body": message.body,
        "content": (message.content_type, message.content_encoding),
    }


ARGUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@everywhere
@given(
    calls=st.lists(
        st.tuples(
            st.lists(ARGUMENTS, max_size=4), st.dictionaries(st.text(min_size=1, max_size=8), ARGUMENTS, max_size=2)
        ),
        min_size=2,
        max_size=6,
    )
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_messages_made_by_stencil_are_those_of_celery(
    app: Celery, take: Callable[[], list[Any]], stencils: list[Any], calls: list[tuple[list[Any], dict[str, Any]]]
) -> None:
    task = app.tasks.get("anything") or app.task(shared=False, name="anything", typing=False)(anything)
    stencils.clear()

    def jobs() -> list[Any]:
        return [task.s(*args, **{f"k{key}": value for key, value in kwargs.items()}) for args, kwargs in calls]

    Bus(app).batch(jobs()).dispatch()
    ours = take()
    assert len(stencils) == 1
    one_by_one(app, jobs)
    theirs = take()

    assert [comparable(message) for message in ours] == [comparable(message) for message in theirs]
    assert len({message.headers["id"] for message in ours}) == len(calls)


@everywhere
@pytest.mark.parametrize(
    ("declared", "options"),
    [
        ({}, {"priority": 3}),
        ({}, {"queue": "other"}),
        ({}, {"time_limit": 30, "soft_time_limit": 20, "ignore_result": False}),
        ({}, {"serializer": "pickle"}),
        ({}, {"expires": timedelta(days=1)}),
        ({}, {"eta": datetime(2100, 1, 1, tzinfo=timezone.utc)}),
        ({"tries": 3, "serializer": "pickle"}, {}),
        ({"time_limit": 10}, {"priority": 5}),
    ],
    ids=str,
)
def test_options_are_kept(
    app: Celery,
    take: Callable[[], list[Any]],
    stencils: list[Any],
    declared: dict[str, Any],
    options: dict[str, Any],
) -> None:
    app.conf.accept_content = ["json", "pickle"]
    task = app.task(shared=False, name="options", **declared)(one)
    if "queue" in options:
        options = {"queue": queues_of(app)[1]}
    if "expires" in options:
        options = {"expires": datetime.now(timezone.utc) + options["expires"]}

    def jobs() -> list[Any]:
        return [task.s(number).set(**options) for number in range(3)]

    Bus(app).batch(jobs()).dispatch()
    ours = [comparable(message) for message in drained(app)]
    is_celerys = "eta" in options and app.conf.broker_url.startswith("amqp")  # its route may depend on the moment
    assert len(stencils) == (0 if is_celerys else 1)
    one_by_one(app, jobs)

    assert ours == [comparable(message) for message in drained(app)]
    assert len(ours) == 3


def drained(app: Celery) -> list[Any]:
    """Every message of the app's queues, those with an ETA included: as they are kept, whatever the broker."""
    if app.conf.broker_url.startswith("amqp"):
        return taken_from(app)
    if app.conf.broker_url.startswith("redis"):
        found = []
        with app.connection_for_read() as connection:
            channel = connection.default_channel
            for queue in queues_of(app):
                for priority in channel.priority_steps:
                    while (raw := channel.client.rpop(channel._q_for_pri(queue, priority))) is not None:
                        found.append(channel.message_to_python(json.loads(raw)))
        return found
    from sqlalchemy import create_engine, text

    engine = create_engine(app.conf.broker_url.removeprefix("database+"))
    with engine.begin() as connection, app.connection_for_read() as kombu_connection:
        rows = connection.execute(
            text("SELECT payload, priority, visible_at FROM celery_broker_messages ORDER BY id")
        ).all()
        connection.execute(text("DELETE FROM celery_broker_messages"))
        channel = kombu_connection.default_channel
        return [channel.message_to_python(json.loads(row.payload)) for row in rows]


@everywhere
def test_kinds_may_be_mixed_and_the_order_of_single_tasks_is_kept(app: Celery, take: Callable[[], list[Any]]) -> None:
    first = app.task(shared=False, name="first")(one)
    second = app.task(shared=False, name="second")(one)
    jobs = [
        first.s(0),
        second.s(1),
        first.s(2),
        [second.s(3), first.s(4)],
        first.s(5).set(headers={"a": 1}),
        second.s(6),
    ]

    Bus(app).batch(jobs).dispatch()

    sent = {message.payload[0][0]: message.headers["laravel"]["index"] for message in take()}
    assert [number for number in sent if number not in {3, 5}] == [0, 1, 2, 6]
    assert sent == {0: 0, 1: 1, 2: 2, 3: 3, 5: 5, 6: 6}


def test_a_chain_is_sent_only_when_the_single_tasks_of_its_slice_have_been(
    app: Celery, take: Callable[[], list[Any]]
) -> None:
    task = app.task(shared=False, name="one")(one)

    with pytest.raises(BatchDispatchError):
        Bus(app).batch([[task.si(1), task.si(2)], task.s("too", "many")]).dispatch()

    assert take() == []


def test_a_chain_that_cannot_be_sent_leaves_the_single_tasks_counted(
    app: Celery, take: Callable[[], list[Any]]
) -> None:
    task = app.task(shared=False, name="one")(one)

    with pytest.raises(BatchDispatchError, match="after 2 jobs"):
        Bus(app).batch([task.s(0), [task.si(1, "too many"), task.si(2)], task.s(3)]).dispatch()

    assert [message.payload[0][0] for message in take()] == [0, 3]
    (batch,) = Bus(app).batches()
    assert (batch.total_jobs, batch.pending_jobs, batch.skipped_jobs, batch.cancelled) == (4, 2, 2, True)


@pytest.mark.parametrize("where", [0, 1, 5])
def test_a_slice_with_a_job_that_cannot_be_sent_sends_nothing(
    app: Celery, take: Callable[[], list[Any]], where: int
) -> None:
    task = app.task(shared=False, name="strict")(one)
    jobs = [task.s(number) for number in range(6)]
    jobs[where] = task.s("too", "many")

    with pytest.raises(BatchDispatchError, match="0") as raised:
        Bus(app).batch(jobs).dispatch()

    assert isinstance(raised.value.__cause__, TypeError)
    assert take() == []
    (batch,) = Bus(app).batches()
    assert (batch.cancelled, batch.finished, batch.pending_jobs) == (True, True, 0)


def test_what_cannot_be_serialized_is_named_and_nothing_is_sent(app: Celery, take: Callable[[], list[Any]]) -> None:
    task = app.task(shared=False, name="unencodable")(one)

    with pytest.raises(BatchDispatchError) as raised:
        Bus(app).batch([task.s(1), task.s(object())]).dispatch()

    assert "object" in repr(raised.value.__cause__)
    assert take() == []


@everywhere
def test_whoever_wants_to_see_each_message_sees_each(app: Celery) -> None:
    task = app.task(shared=False, name="seen")(one)
    seen: list[str] = []

    def receiver(headers: dict[str, Any], **_: Any) -> None:
        seen.append(headers["id"])

    before_task_publish.connect(receiver)
    try:
        Bus(app).batch(task.s(number) for number in range(5)).dispatch()
    finally:
        before_task_publish.disconnect(receiver)

    assert len(set(seen)) == 5


@everywhere
def test_a_router_that_looks_at_arguments_is_asked_for_each(app: Celery, take: Callable[[], list[Any]]) -> None:
    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> dict[str, str]:
        return {"queue": queues_of(app)[args[0] % 2]}

    app.conf.task_routes = (route,)
    task = app.task(shared=False, name="routed")(one)

    Bus(app).batch(task.s(number) for number in range(4)).dispatch()

    assert [(m.delivery_info["routing_key"], m.payload[0][0]) for m in take()] == [
        (queues_of(app)[number % 2], number) for number in (0, 2, 1, 3)
    ]


@everywhere
def test_a_method_of_the_users_own_is_called_for_each(app: Celery) -> None:
    from celery_laravel import Job

    calls: list[Any] = []

    class Counting(Job):
        abstract = True

        def apply_async(self, args: Any = None, *rest: Any, **options: Any) -> Any:
            calls.append(args)
            return super().apply_async(args, *rest, **options)

    task = app.task(shared=False, name="counting", base=Counting)(one)

    Bus(app).batch(task.s(number) for number in range(4)).dispatch()

    assert [args[0] for args in calls] == [0, 1, 2, 3]


@everywhere
def test_progress_is_told_after_each_slice(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery_laravel.dispatch import members

    monkeypatch.setattr(members, "SLICE", 10)
    task = app.task(shared=False, name="many")(one)
    told: list[int] = []

    Bus(app).batch(task.s(number) for number in range(25)).dispatch(on_progress=told.append)

    assert told == [10, 20, 25]


def test_a_countdown_is_counted_from_when_its_slice_is_sent(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery_laravel.dispatch import members

    monkeypatch.setattr(members, "SLICE", 2)
    task = app.task(shared=False, name="later")(one)

    Bus(app).batch(task.s(number).set(countdown=3600) for number in range(4)).dispatch()

    etas = [datetime.fromisoformat(message.headers["eta"]) for message in drained(app)]
    assert etas[0] == etas[1] < etas[2] == etas[3]
    assert timedelta(minutes=59) < etas[0] - datetime.now(timezone.utc) <= timedelta(hours=1)


def test_new_ids_are_random_uuids() -> None:
    from itertools import islice
    from uuid import UUID

    ids = list(islice(new_ids(), 1000))

    assert len(set(ids)) == 1000
    assert {(UUID(text).version, str(UUID(text)) == text) for text in ids} == {(4, True)}


def test_a_channel_is_left_as_it_was(app: Celery) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        channel = producer.channel
        before = channel._put
        with pytest.raises(RuntimeError), Outbox(producer).collecting():
            raise RuntimeError
        assert channel._put == before


@everywhere
def test_members_may_be_jobs_whose_class_was_registered(app: Celery, take: Callable[[], list[Any]]) -> None:
    """Celery checks no arguments of those: it has no function to make the check of."""

    class Import(Job):
        name = "import"

        def run(self, number: int) -> None: ...

    job = app.register_task(Import())
    Bus(app).batch(job.s(number) for number in range(3)).dispatch()
    assert [message.payload[0] for message in take()] == [[0], [1], [2]]
