"""What travels in a pack, and what does not."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Task, chain
from celery.signals import before_task_publish
from hypothesis import given
from hypothesis import strategies as st
from kombu import Producer

from celery_laravel import BatchDispatchError, Bus, ConfigurationError, Job
from celery_laravel.errors import InvalidMessageError
from celery_laravel.message.header import read_header
from celery_laravel.message.packs import CARRIER, read_pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from tests.unit.packs.conftest import Post

pytestmark = pytest.mark.matrix


@pytest.fixture
def numbered(app: Celery) -> Any:
    @app.task(name="numbered")
    def numbered(number: int) -> None:
        app.ran.append(number)

    return numbered


def members_of(message: Any) -> list[Any]:
    return list(read_pack(**message.payload[1], carrier=message.headers).members)


def sizes(messages: list[Any]) -> list[int]:
    """How many members each message carries, 0 for one of its own."""
    return [len(members_of(m)) if m.headers["task"] == CARRIER else 0 for m in messages]


def test_so_many_members_travel_in_a_message_and_each_is_counted(app: Celery, post: Post, numbered: Any) -> None:
    batch = Bus(app).batch(numbered.s(n) for n in range(25)).pack(10).dispatch()
    messages = post.take()
    assert sizes(messages) == [10, 10, 5]
    members = [member for message in messages for member in members_of(message)]
    assert [(member.index, list(member.args)) for member in members] == [(n, [n]) for n in range(25)]
    assert len({member.id for member in members}) == 25
    for message in messages:
        post.run(message)
    assert app.ran == list(range(25))
    seen = batch.fresh()
    assert (seen.total_jobs, seen.pending_jobs, seen.finished) == (25, 0, True)
    assert batch.options["pack"] == 10


def test_a_members_request_is_the_one_that_a_message_of_its_own_makes(app: Celery, post: Post, numbered: Any) -> None:
    signature = numbered.s(1).set(priority=3, time_limit=9, soft_time_limit=5, ignore_result=True)
    Bus(app).batch([signature]).dispatch()
    Bus(app).batch([signature, signature]).pack(2).dispatch()
    alone, packed = post.take()
    for member in members_of(packed):
        seen = {key: value for key, value in member.request.items() if value is not None}
        ids = {"id": member.id, "root_id": member.id, "correlation_id": member.id}
        assert ids.items() <= seen.items()
        header = read_header(seen)
        assert (header.index, header.batch_id) == (member.index, Bus(app).batches()[0].id)
        own = {key: value for key, value in alone.headers.items() if value is not None}
        for key in own.keys() - {"id", "root_id", "laravel", "argsrepr", "kwargsrepr"}:
            assert seen[key] == own[key], key
        assert member.kind.time_limits == (9, 5)
    assert packed.properties["priority"] == 3


def test_members_of_other_queues_and_priorities_travel_in_packs_of_their_own(
    app: Celery, post: Post, numbered: Any
) -> None:
    @app.task(name="another")
    def another() -> None: ...

    other = f"{app.main}-other"
    jobs = [numbered.s(1), another.s(), numbered.s(2).set(queue=other), another.s().set(queue=other)]
    jobs += [numbered.s(3).set(priority=1), numbered.s(4).set(priority=1)]
    Bus(app).batch(jobs).pack(100).dispatch()
    assert sizes(post.take()) == [2, 2]
    assert sizes(post.take(other)) == [2]


def nothing() -> None:
    """Do nothing."""


def _declare(app: Celery, name: str, **options: Any) -> Any:
    return app.task(name=name, **options)(nothing)


ALONE: dict[str, Callable[[Celery], Any]] = {
    "countdown": lambda app: app.tasks["numbered"].s(1).set(countdown=5),
    "eta": lambda app: app.tasks["numbered"].s(1).set(eta=app.now() + timedelta(hours=1)),
    "expires": lambda app: app.tasks["numbered"].s(1).set(expires=60),
    "a task that expires": lambda app: _declare(app, "expiring", expires=60).s(),
    "a task with a rate": lambda app: _declare(app, "rated", rate_limit="10/m").s(),
    "acknowledged early": lambda app: _declare(app, "early", acks_late=False).s(),
    "a request of its own": lambda app: _declare(app, "own", Request="celery.worker.request:Request").s(),
    "stamped": lambda app: app.tasks["numbered"].s(1).set(stamped_headers=["a"], a="b"),
}


@pytest.mark.parametrize("why", ALONE)
def test_what_has_its_say_where_it_is_taken_from_its_queue_goes_alone(
    app: Celery, post: Post, numbered: Any, why: str
) -> None:
    Bus(app).batch([numbered.s(0), ALONE[why](app), numbered.s(2)]).pack(10).dispatch()
    assert sorted(sizes(post.take())) == [0, 2]


def test_a_canvas_goes_alone_and_is_counted(app: Celery, post: Post, numbered: Any) -> None:
    jobs = [numbered.s(0), chain(numbered.si(1), numbered.si(2)), [numbered.si(3), numbered.si(4)], numbered.s(5)]
    batch = Bus(app).batch(jobs).pack(10).dispatch()
    messages = post.take()
    assert sorted(sizes(messages)) == [0, 0, 2]
    for message in messages:
        post.run(message)
    post.work()
    assert sorted(app.ran) == list(range(6))
    assert batch.fresh().finished


def test_a_pack_of_one_is_a_message_of_its_own(app: Celery, post: Post, numbered: Any) -> None:
    Bus(app).batch([numbered.s(1)]).pack(10).dispatch()
    assert sizes(post.take()) == [0]


def test_callbacks_and_headers_of_a_signature_travel_with_it(app: Celery, post: Post, numbered: Any) -> None:
    @app.task(name="seen", bind=True)
    def seen(self: Any) -> None:
        app.ran.append(self.request.headers["mine"])

    job = seen.s().set(headers={"mine": 7}, link=[numbered.si(8)], task_id="chosen", argsrepr="(secret)")
    Bus(app).batch([job, numbered.s(1)]).pack(10).dispatch()
    (message,) = post.take()
    first, second = members_of(message)
    assert (first.id, first.request["argsrepr"], second.request.get("argsrepr")) == ("chosen", "(secret)", None)
    post.run(message)
    post.work()
    assert app.ran == [7, 1, 8]


def test_where_somebody_looks_at_each_message_celery_makes_each(app: Celery, post: Post, numbered: Any) -> None:
    seen = []

    def look(headers: dict[str, Any], **_: Any) -> None:
        seen.append(headers["id"])
        headers["looked"] = True

    before_task_publish.connect(look)
    try:
        Bus(app).batch(numbered.s(n) for n in range(3)).pack(10).dispatch()
    finally:
        before_task_publish.disconnect(look)
    (message,) = post.take()
    assert [member.id for member in members_of(message)] == seen
    assert all(member.request["looked"] for member in members_of(message))


def test_a_task_that_sends_by_itself_is_left_to_it(app: Celery, post: Post, numbered: Any) -> None:
    class Twice(Task):
        def apply_async(self, *args: Any, **options: Any) -> Any:
            super().apply_async(*args, **options)
            return super().apply_async(*args, **options)

    twice = app.task(name="twice", base=Twice)(nothing)
    Bus(app).batch([numbered.s(1), twice.s(), numbered.s(2)]).pack(10).dispatch()
    assert sorted(sizes(post.take())) == [0, 0, 2]


def test_jobs_added_to_a_packed_batch_are_packed(app: Celery, post: Post, numbered: Any) -> None:
    @app.task(name="adds", bind=True)
    def adds(self: Any) -> None:
        self.batch.add(numbered.s(n) for n in range(6))

    batch = Bus(app).batch([adds.s(), numbered.s(9)]).pack(4).dispatch()
    worked = post.work()
    assert sizes(worked) == [2, 4, 2]
    assert batch.fresh().total_jobs == 8
    assert batch.fresh().finished


def test_packs_are_filled_within_a_slice(app: Celery, post: Post, numbered: Any) -> None:
    sent: list[int] = []
    Bus(app).batch(numbered.s(n) for n in range(1100)).pack(300).dispatch(on_progress=sent.append)
    assert (sizes(post.take()), sent) == ([300, 300, 300, 100, 100], [1000, 1100])


def test_in_eager_mode_packing_changes_nothing(app: Celery, numbered: Any) -> None:
    app.conf.task_always_eager = True
    batch = Bus(app).batch(numbered.s(n) for n in range(3)).pack(2).dispatch()
    assert (app.ran, batch.fresh().finished) == ([0, 1, 2], True)


def test_a_member_with_wrong_arguments_ends_the_dispatch(app: Celery, post: Post, numbered: Any) -> None:
    jobs: Iterator[Any] = iter([numbered.s(1), numbered.s(1, 2)])
    with pytest.raises(BatchDispatchError):
        Bus(app).batch(jobs).pack(10).dispatch()
    (batch,) = Bus(app).batches()
    assert (batch.pending_jobs, batch.skipped_jobs, batch.cancelled) == (0, 2, True)
    assert post.take() == []


@pytest.mark.parametrize("size", [0, -1, 1001])
def test_a_size_that_makes_no_sense_is_refused(app: Celery, size: int) -> None:
    with pytest.raises(ValueError, match=r"1 to 1,000"):
        Bus(app).batch([]).pack(size)


@pytest.mark.parametrize("size", ["10", 2.5, True, None])
def test_what_is_no_number_is_refused(app: Celery, size: Any) -> None:
    with pytest.raises(TypeError, match="number of members"):
        Bus(app).batch([]).pack(size)


def test_an_app_without_the_library_is_told_what_to_do(make_app: Callable[..., Celery]) -> None:
    with pytest.raises(ConfigurationError, match=r"install\(app\)"):
        Bus(make_app()).batch([]).pack(10)


def test_an_option_of_that_name_of_ones_own_packs_nothing(app: Celery, post: Post, numbered: Any) -> None:
    Bus(app).batch([numbered.s(1), numbered.s(2)]).with_option("pack", "of wolves").dispatch()
    assert sizes(post.take()) == [0, 0]


def test_packs_that_were_not_sent_are_counted_out(
    app: Celery, post: Post, numbered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, sent = Producer.publish, []

    def fails_at_the_third(self: Any, body: Any, **options: Any) -> Any:
        sent.append(body)
        if len(sent) == 3:
            raise OSError("the broker is gone")
        return publish(self, body, **options)

    monkeypatch.setattr(Producer, "publish", fails_at_the_third)
    with pytest.raises(BatchDispatchError) as raised:
        Bus(app).batch(numbered.s(n) for n in range(50)).pack(10).dispatch()
    monkeypatch.undo()
    assert raised.value.sent == 20
    (batch,) = Bus(app).batches()
    assert (batch.pending_jobs, batch.skipped_jobs, batch.cancelled) == (20, 30, True)
    post.work()
    assert app.ran == list(range(20))
    assert Bus(app).batches()[0].finished


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
members = st.lists(st.tuples(st.integers(-1, 2), plain, plain, plain, plain).map(list) | plain, max_size=3)
kinds = st.lists(
    st.fixed_dictionaries(
        {"headers": st.just({"task": "job"}) | plain, "own": st.just({"batch_id": "b"}) | plain, "same": plain},
        optional={"follows": plain, "reply_to": plain},
    )
    | plain,
    max_size=2,
)


@given(st.just("b") | plain, kinds | plain, members | plain)
def test_a_damaged_pack_is_refused_or_makes_sense(batch: Any, kinds: Any, members: Any) -> None:
    try:
        pack = read_pack(batch, kinds, members, {"hostname": "here"})
    except InvalidMessageError:
        return
    for member in pack.members:
        assert isinstance(member.task, str)
        assert member.request["args"] == member.args
        assert member.request["laravel"]["index"] == member.index >= 0


def test_jobs_whose_class_was_registered_travel_too(app: Celery, post: Post) -> None:
    class Import(Job):
        name = "import"

        def run(self, number: int) -> None: ...

    job = app.register_task(Import())
    Bus(app).batch(job.s(number) for number in range(3)).pack(3).dispatch()
    assert sizes(post.take()) == [3]
