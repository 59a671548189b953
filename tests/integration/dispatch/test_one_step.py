"""Unique jobs on one Redis: the message that the store pushes is Celery's, and where it may not be, Celery makes it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, chain
from celery.signals import after_task_publish, before_task_publish, task_sent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu.exceptions import EncodeError
from redis import Redis

from celery_laravel import ConfigurationError, Job, ShouldBeUnique, install, signals
from celery_laravel.dispatch import one_step
from celery_laravel.dispatch.one_step import OneStep
from celery_laravel.stores.factory import store_of
from tests.stores.conftest import remove_keys

pytestmark = [pytest.mark.redis, pytest.mark.matrix]


@pytest.fixture
def app(redis_url: str, redis_prefix: str) -> Iterator[Celery]:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    app.conf.update(laravel_prefix=redis_prefix, task_default_queue=f"{redis_prefix}-jobs", task_ignore_result=True)
    install(app)
    yield app
    app.close()
    remove_keys(redis_url, redis_prefix)


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A clock that stands still, so that what is kept for a moment is kept for the whole test."""
    time = {"now": 0.0}
    monkeypatch.setattr(one_step, "monotonic", lambda: time["now"])
    return time


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the jobs that the store was to push."""
    pushed: list[str] = []
    send = OneStep.send

    def noting(self: OneStep, args: Any, kwargs: Any, task_id: str) -> Any:
        answer = send(self, args, kwargs, task_id)
        if answer is not None:
            pushed.append(task_id)
        return answer

    monkeypatch.setattr(OneStep, "send", noting)
    return pushed


@pytest.fixture
def take(app: Celery, client: Redis) -> Callable[..., list[dict[str, Any]]]:
    """Take the messages out of a queue, in order, as they lie there."""

    def take(queue: str | None = None) -> list[dict[str, Any]]:
        key = queue or app.conf.task_default_queue
        messages = [json.loads(text) for text in reversed(client.lrange(key, 0, -1))]
        client.delete(key)
        return messages

    return take


def unique_task(app: Celery, **options: Any) -> Any:
    return app.task(name=f"rebuild-{uuid4().hex}", unique=True, unique_id=_first, typing=False, **options)(_anything)


def _first(self: Any, *args: Any, **kwargs: Any) -> Any:
    return repr((args, kwargs))


def _anything(*args: Any, **kwargs: Any) -> None: ...


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """A message less what is random, with its ids replaced by whether they are one."""
    message = json.loads(json.dumps(message))
    headers, properties = message["headers"], message["properties"]
    task_id = headers.pop("id")
    assert properties.pop("delivery_tag") != task_id
    assert (headers.pop("root_id"), properties.pop("correlation_id")) == (task_id, task_id)
    assert headers["laravel"].pop("unique").startswith("unique:")
    return message


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ARGUMENTS = st.lists(PLAIN | st.lists(PLAIN, max_size=2), max_size=4).map(tuple)
KEYWORDS = st.dictionaries(st.text(min_size=1, max_size=5), PLAIN, max_size=2)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_the_message_is_celerys(app: Celery, take: Any, pushed: list[str], serializer: str) -> None:
    app.conf.update(task_serializer=serializer, accept_content=[serializer])
    task = unique_task(app, tries=3)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(args=ARGUMENTS, kwargs=KEYWORDS, task_id=st.none() | st.text(min_size=1, max_size=9))
    def check(args: Any, kwargs: Any, task_id: str | None) -> None:
        for lock in store_of(app).locks.all():
            store_of(app).locks.free(lock.key)
        before_task_publish.connect(_look)
        try:
            task.apply_async(args, kwargs)
        finally:
            before_task_publish.disconnect(_look)
        (by_celery,) = take()
        store_of(app).locks.free(by_celery["headers"]["laravel"]["unique"])
        if not pushed:
            task.apply_async(("form",))
            take()
        count = len(pushed)
        result = task.apply_async(args, kwargs, task_id=task_id)
        assert pushed[count:] == [result.id]
        (by_store,) = take()
        assert by_store["headers"]["id"] == result.id
        assert task_id in {None, result.id}
        assert comparable(by_store) == comparable(by_celery)

    check()


def _look(**_: Any) -> None: ...


def dispatches(task: Any, numbers: range, **options: Any) -> list[Any]:
    return [task.apply_async((number,), **options) for number in numbers]


def test_the_first_of_a_kind_is_made_by_celery_and_the_others_are_pushed(
    app: Celery, take: Any, pushed: list[str]
) -> None:
    results = dispatches(unique_task(app), range(5))
    assert pushed == [result.id for result in results[1:]]
    assert [message["headers"]["id"] for message in take()] == [result.id for result in results]
    assert not any(result.suppressed for result in results)
    holds = store_of(app).locks.all()
    assert {hold.owner for hold in holds} == {result.id for result in results}
    assert {hold.expires_at for hold in holds} == {None}


def test_what_is_suppressed_is_so_here_too(app: Celery, take: Any, pushed: list[str]) -> None:
    task = unique_task(app)
    first, *_ = dispatches(task, range(3))
    again = task.delay(0)
    assert (again.id, again.suppressed) == (first.id, True)
    assert len(pushed) == 3
    assert len(take()) == 3


def test_after_a_suppressed_dispatch_no_message_is_made_for_the_next_one_before_it_has_its_lock(
    app: Celery, take: Any, pushed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = unique_task(app)
    first, second = dispatches(task, range(2))
    locks, calls = store_of(app).locks, []

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(locks, name)

        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return method(*args, **options)

        return call

    for name in ("acquire", "acquire_and_push", "confirm"):
        monkeypatch.setattr(locks, name, counted(name))
    assert [result.id for result in dispatches(task, range(2))] == [first.id, second.id]
    assert calls == ["acquire_and_push", "acquire"]
    third, fourth = dispatches(task, range(2, 4))
    assert calls[2:] == ["acquire", "acquire_and_push", "acquire_and_push"]
    assert not third.suppressed
    assert [message["headers"]["id"] for message in take()] == [first.id, second.id, third.id, fourth.id]
    assert {hold.expires_at for hold in locks.all()} == {None}


def test_a_hold_ends_when_the_task_says(app: Celery, pushed: list[str]) -> None:
    task = unique_task(app, unique_for=60)
    results = [*dispatches(task, range(2)), *dispatches(task, range(2, 4), unique_for=7200)]
    assert pushed == [results[1].id, results[3].id], "the header names the time, so there are two kinds"
    lasts = {hold.owner: (hold.expires_at - hold.taken_at).total_seconds() for hold in store_of(app).locks.all()}  # type: ignore[operator]
    assert [round(lasts[result.id], -1) for result in results] == [60, 60, 7200, 7200]


def test_queues_and_priorities_are_kinds_of_their_own(app: Celery, take: Any, pushed: list[str]) -> None:
    queue = app.conf.task_default_queue
    dispatches(task := unique_task(app), range(2))
    dispatches(task, range(2, 4), queue=f"{queue}-other")
    dispatches(task, range(4, 6), priority=9)
    assert len(pushed) == 3
    assert [len(take(key)) for key in (queue, f"{queue}-other", f"{queue}\x06\x169")] == [2, 2, 2]


def test_a_producer_of_the_callers_is_a_kind_of_its_own(app: Celery, take: Any, pushed: list[str]) -> None:
    task = unique_task(app)
    with app.producer_or_acquire() as producer:
        dispatches(task, range(3), producer=producer)
    assert len(pushed) == 2
    with app.connection_for_write() as connection:
        own = app.amqp.Producer(connection)
        dispatches(task, range(3, 5), producer=own)
    assert len(pushed) == 3, "another connection may lead elsewhere"
    assert len(take()) == 5


def test_a_broker_that_is_another_server_is_published_to(
    redis_url: str, redis_prefix: str, app: Celery, pushed: list[str]
) -> None:
    app.conf.laravel_store = "redis://localhost:6379/3"
    install(app)
    task = unique_task(app)
    try:
        dispatches(task, range(3))
    finally:
        remove_keys("redis://localhost:6379/3", redis_prefix)
    assert pushed == []


def test_a_kind_lasts_for_a_moment(app: Celery, pushed: list[str], time: dict[str, float]) -> None:
    task = unique_task(app)
    for _ in range(6):
        dispatches(task, range(1))
        store_of(app).locks.free(store_of(app).locks.all()[0].key)
        time["now"] += 0.4
    assert len(pushed) == 4, "of six in 2.4 seconds, Celery made two"


def test_each_thread_has_forms_of_its_own(app: Celery, take: Any, pushed: list[str]) -> None:
    task = unique_task(app)
    dispatches(task, range(2))
    thread = threading.Thread(target=dispatches, args=(task, range(2, 4)))
    thread.start()
    thread.join()
    assert len(pushed) == 2
    first, second, third, fourth = (message["properties"]["reply_to"] for message in take())
    assert first == second != third == fourth


def test_a_forked_process_begins_anew(app: Celery, take: Any, pushed: list[str]) -> None:
    task = unique_task(app)
    dispatches(task, range(2))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            dispatches(task, range(2, 4))
            code = 0 if len(pushed) == 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    origins = [message["headers"]["origin"] for message in take()]
    assert len(set(origins)) == 2
    assert origins[0] == origins[1] != origins[2] == origins[3]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_always_eager", True),
        ("task_ignore_result", False),
        ("task_publish_retry", False),
        ("task_send_sent_event", True),
    ],
)
def test_a_setting_that_changes_is_heeded_at_once(app: Celery, pushed: list[str], name: str, value: Any) -> None:
    task = unique_task(app)
    dispatches(task, range(2))
    assert len(pushed) == 1
    app.conf[name] = value
    task.apply_async((3,))
    assert len(pushed) == 1


def test_a_route_that_is_a_function_is_asked_each_time(app: Celery, take: Any, pushed: list[str]) -> None:
    queue = app.conf.task_default_queue

    def route(name: str, args: Any, *_: Any, **__: Any) -> dict[str, str]:
        return {"queue": f"{queue}-{args[0] % 2}"}

    app.conf.task_routes = [route]
    dispatches(unique_task(app), range(6))
    assert pushed == []
    assert [len(take(f"{queue}-{number}")) for number in range(2)] == [3, 3]


@pytest.mark.parametrize(
    "signal",
    [before_task_publish, after_task_publish, task_sent, signals.job_queueing, signals.job_queued],
    ids=lambda signal: signal.name,
)
def test_who_wants_to_see_every_message_sees_them(app: Celery, take: Any, pushed: list[str], signal: Any) -> None:
    task = unique_task(app)
    dispatches(task, range(2))
    assert len(pushed) == 1
    seen: list[Any] = []

    def look(**details: Any) -> None:
        seen.append(details)

    signal.connect(look)
    try:
        dispatches(task, range(2, 5))
    finally:
        signal.disconnect(look)
    assert len(seen) == 3
    assert len(pushed) == 1
    assert len(take()) == 5


@pytest.mark.parametrize("where", ["Celery.send_task", "app.send_task", "Task.apply_async", "Producer.publish"])
def test_a_tool_that_wraps_celery_is_called_each_time(
    app: Celery, pushed: list[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from functools import wraps

    from celery import Task
    from kombu import Producer

    called = []
    task = unique_task(app)
    assert app.tasks[task.name].name == task.name, "it is bound before the tool comes"
    owner, _, name = where.partition(".")
    cls: Any = {"Celery": Celery, "app": app, "Task": Task, "Producer": Producer}[owner]
    original = getattr(cls, name)

    @wraps(original)
    def traced(*args: Any, **options: Any) -> Any:
        called.append(name)
        return original(*args, **options)

    monkeypatch.setattr(cls, name, traced)
    dispatches(task, range(4))
    assert len(called) >= 4
    assert pushed == []


def test_what_follows_or_belongs_to_a_canvas_is_made_by_celery(app: Celery, take: Any, pushed: list[str]) -> None:
    task, other = unique_task(app), unique_task(app)
    dispatches(task, range(2))
    pushed.clear()
    task.apply_async((10,), link=other.si(1))
    task.apply_async((11,), link_error=other.si(1))
    task.apply_async((12,), shadow="another")
    task.apply_async((13,), countdown=1)
    task.apply_async((14,), expires=60)
    task.apply_async((15,), headers={"mine": 1})
    chain(task.si(16), task.si(17)).apply_async()
    assert pushed == []
    assert len(take()) == 9


def test_a_task_that_expires_is_made_by_celery(app: Celery, take: Any, pushed: list[str]) -> None:
    dispatches(unique_task(app, expires=60), range(3))
    assert pushed == []
    assert len({message["headers"]["expires"] for message in take()}) == 3


def test_a_job_that_is_dispatched_by_a_job_is_its_child(app: Celery, take: Any, pushed: list[str]) -> None:
    task = unique_task(app)
    dispatches(task, range(2))

    @app.task(name=f"parent-{uuid4().hex}")
    def parent() -> None:
        dispatches(task, range(2, 4))

    parent.apply(task_id="parent", throw=True)
    assert len(pushed) == 1
    assert [message["headers"]["parent_id"] for message in take()][2:] == ["parent", "parent"]


def test_arguments_are_checked(app: Celery, take: Any) -> None:
    @app.task(unique=True, unique_id="number")
    def rebuild(number: int) -> None: ...

    dispatches(rebuild, range(2))
    with pytest.raises(TypeError):
        rebuild.apply_async((1, 2))
    anything = unique_task(app)
    dispatches(anything, range(2))
    with pytest.raises(EncodeError):
        anything.apply_async((object(),))
    with pytest.raises(ConfigurationError):
        rebuild.apply_async((7,), unique_for="soon")
    assert len(take()) == 4
    assert len(store_of(app).locks.all()) == 4


def test_the_result_is_celerys(app: Celery, redis_url: str) -> None:
    app.conf.update(result_backend=redis_url, task_ignore_result=False)
    task = unique_task(app)
    first, second = dispatches(task, range(2))
    assert (type(first), first.ignored, first.task_id != second.task_id) == (type(second), second.ignored, True)
    assert second.parent is None
    consumer = app.backend.result_consumer
    assert {app.backend.get_key_for_task(result.id) for result in (first, second)} <= set(consumer.subscribed_to)


def test_a_job_whose_class_was_registered_is_pushed_too(app: Celery, take: Any, pushed: list[str]) -> None:
    class Rebuild(Job, ShouldBeUnique):
        name = "rebuild"

        def unique_id(self, number: int) -> int:
            return number

        def run(self, number: int) -> None: ...

    results = dispatches(app.register_task(Rebuild()), range(3))
    assert pushed == [result.id for result in results[1:]]
    assert len(take()) == 3
