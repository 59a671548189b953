"""Functions that travel to a worker as jobs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain

from celery_laravel import Bus, ConfigurationError, install
from celery_laravel.errors import InvalidSignatureError
from celery_laravel.message import closures
from celery_laravel.message.closures import TASK, pack, unpack
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

KEY = "a long and random string"


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    app = make_app()
    app.conf.update(laravel_secret_key=KEY, task_always_eager=True)
    return install(app)


class Unpicklable:
    """Counts how often it was unpickled."""

    unpickled = 0

    def __reduce__(self) -> Any:
        return Unpicklable._count, ()

    @classmethod
    def _count(cls) -> Unpicklable:
        cls.unpickled += 1
        return cls()


def double(number: int) -> int:
    return 2 * number


def test_a_closure_runs_with_what_it_captured(app: Celery) -> None:
    number = 20

    assert Bus(app).closure(lambda: double(number) + 2).dispatch().get() == 42


def test_an_importable_function_runs_too(app: Celery) -> None:
    assert Bus(app).closure(threading.active_count).dispatch().get() >= 1


def test_a_closure_has_a_name_for_people(app: Celery) -> None:
    named = Bus(app).closure(lambda: None).name("validate-order").signature()
    unnamed = Bus(app).closure(lambda: None).signature()

    assert named.options["shadow"] == "validate-order"
    assert "test_closures.py:" in unnamed.options["shadow"]
    assert "lambda" in unnamed.options["kwargsrepr"]
    assert named.kwargs["closure"] not in named.options["kwargsrepr"]


def test_a_closure_that_fails_is_caught_once_by_each_who_asked(app: Celery) -> None:
    caught: list[Any] = []
    Unshared.caught = caught

    @app.task(shared=False, name="note")
    def note(error: Exception, where: str) -> None:
        caught.append((where, repr(error)))

    def fail() -> None:
        raise ValueError("no luck")

    result = (
        Bus(app).closure(fail).catch(note.s("task")).catch(lambda error: Unshared.caught.append(repr(error))).dispatch()
    )

    assert result.state == "FAILURE"
    assert caught == [("task", "ValueError('no luck')"), "ValueError('no luck')"]


class Unshared:
    """Where closures of this module leave things: a class is pickled by reference."""

    caught: list[Any]


def test_closures_stand_in_batches_and_chains(app: Celery) -> None:
    seen: list[Any] = []
    Unshared.caught = seen

    batch = (
        Bus(app)
        .batch(
            [
                lambda: Unshared.caught.append("single"),
                [lambda: Unshared.caught.append(1), lambda: Unshared.caught.append(2)],
            ]
        )
        .then(lambda batch: Unshared.caught.append(("then", batch.failed_jobs)))
        .finally_(Bus(app).closure(lambda batch: Unshared.caught.append(("finally", batch.finished))))
        .dispatch()
    )

    assert seen == ["single", 1, 2, ("then", 0), ("finally", True)]
    assert batch.fresh().processed_jobs == 3


def test_a_closure_is_a_step_of_celerys_chain_and_takes_no_result(app: Celery) -> None:
    @app.task(shared=False, name="one")
    def one() -> int:
        return 1

    assert chain(one.si(), Bus(app).closure(lambda: 5).signature(), app=app).delay().get() == 5


def test_a_closure_of_a_batch_is_called_for_each_member_and_for_no_other_callback(app: Celery) -> None:
    seen: list[Any] = []
    Unshared.caught = seen

    @app.task(shared=False, name="either")
    def either(fails: bool) -> None:
        if fails:
            raise KeyError("gone")

    batch = (
        Bus(app)
        .batch([either.si(n % 2) for n in range(3)])
        .progress(lambda batch: Unshared.caught.append(batch.processed_jobs))
        .allow_failures(lambda batch, error: Unshared.caught.append(repr(error)))
        .dispatch()
    )

    assert seen == [1, "KeyError('gone')", 3]
    record = store_of(app).batches.find(batch.id)
    assert record is not None
    payload, keys = record.callbacks["progress"][0]["kwargs"]["closure"], [KEY]
    for foreign in (f"{batch.id}:progress:1:0", f"{batch.id}:then:0", f"other:progress:0:{batch.id}"):
        with pytest.raises(InvalidSignatureError):
            unpack(payload, keys=keys, task_id=foreign)
    assert unpack(payload, keys=keys, task_id=f"{batch.id}:progress:0:99")


def test_a_batchs_catch_closure_receives_batch_and_exception(app: Celery) -> None:
    seen: list[Any] = []
    Unshared.caught = seen

    @app.task(shared=False, name="boom")
    def boom() -> None:
        raise KeyError("gone")

    Bus(app).batch([boom.si()]).catch(
        lambda batch, error: Unshared.caught.append((batch.failed_jobs, repr(error)))
    ).dispatch()

    assert seen == [(1, "KeyError('gone')")]


def test_without_a_key_a_closure_says_how_to_get_one(make_app: Callable[..., Celery]) -> None:
    app = install(make_app())

    with pytest.raises(ConfigurationError, match=r"laravel_secret_key.*token_urlsafe"):
        Bus(app).closure(lambda: None)
    with pytest.raises(TypeError, match="laravel_secret_key"):
        Bus(app).batch([]).then(lambda batch: None)
    assert TASK not in app.tasks


def test_without_the_extra_a_closure_says_what_to_install(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cloudpickle", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'celery-laravel\[closures\]'"):
        Bus(app).closure(lambda: None)


@pytest.mark.parametrize("tamper", ["payload", "signature", "id", "key", "nonsense", "nothing"])
def test_what_was_not_signed_for_this_job_is_never_unpickled(tamper: str) -> None:
    payload: Any = pack(Unpicklable(), function=print, keys=[KEY], task_id="job-1")
    keys, task_id = [KEY], "job-1"
    Unpicklable.unpickled = 0
    if tamper == "payload":
        payload = "A" + payload[1:] if payload[0] != "A" else "B" + payload[1:]
    elif tamper == "signature":
        content, dot, signature = payload.rpartition(".")  # of whose last character not all bits count
        payload = content + dot + ("A" if signature[0] != "A" else "B") + signature[1:]
    elif tamper == "id":
        task_id = "job-2"
    elif tamper == "key":
        keys = ["another key"]
    else:
        payload = "nonsense" if tamper == "nonsense" else None

    with pytest.raises(InvalidSignatureError, match=task_id):
        unpack(payload, keys=keys, task_id=task_id)
    assert Unpicklable.unpickled == 0


def test_keys_rotate() -> None:
    old = pack("content", function=print, keys=["old"], task_id="job")
    new = pack("content", function=print, keys=["new", "old"], task_id="job")

    assert unpack(old, keys=["new", "old"], task_id="job") == "content"
    assert unpack(new, keys=["new"], task_id="job") == "content"
    with pytest.raises(InvalidSignatureError):
        unpack(new, keys=["old"], task_id="job")


def test_a_tampered_closure_fails_its_job_and_catches_nothing(app: Celery) -> None:
    caught: list[Any] = []
    Unshared.caught = caught
    signature = Bus(app).closure(lambda: None).catch(lambda error: Unshared.caught.append(repr(error))).signature()
    signature.kwargs["closure"] = "A" + signature.kwargs["closure"]

    result = signature.apply_async()

    assert isinstance(result.result, InvalidSignatureError)
    assert caught == []


def test_what_cannot_travel_is_named(app: Celery) -> None:
    lock = threading.Lock()
    closure = Bus(app).closure(lambda: lock.locked() and None)

    with pytest.raises(TypeError, match=r"test_closures\.py:\d+\) captures 'lock' = <unlocked"):
        closure.dispatch()


def test_a_task_that_is_captured_is_refused_with_what_to_do(app: Celery) -> None:
    refused: list[str] = []

    @app.task(shared=False, bind=True, name="outer")
    def outer(self: Any) -> None:
        try:
            Bus(app).closure(lambda: self.release(10))
        except TypeError as error:
            refused.append(str(error))

    outer.delay()

    assert "captures 'self', the task 'outer'" in refused[0]
    assert "current_job()" in refused[0]


@pytest.mark.parametrize(
    ("function", "says"), [(42, "must be a function"), ("text", "must be a function"), (None, "must be a function")]
)
def test_what_is_no_function_is_refused(app: Celery, function: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Bus(app).closure(function)


def test_a_coroutine_function_is_refused(app: Celery) -> None:
    async def later() -> None: ...

    with pytest.raises(TypeError, match="coroutine function"):
        Bus(app).closure(later)


def test_a_task_is_no_closure(app: Celery) -> None:
    @app.task(shared=False, name="task")
    def task() -> None: ...

    with pytest.raises(TypeError, match=r"Give task\.s"):
        Bus(app).closure(task)


def test_a_closure_goes_to_the_queue_and_waits_as_told(app: Celery) -> None:
    signature = Bus(app).closure(lambda: None).on_queue("slow").delay(30).signature()

    assert (signature.options["queue"], signature.options["countdown"]) == ("slow", 30)


@pytest.mark.parametrize("wrong", [-1, "30", True])
def test_a_delay_that_is_none_is_refused_where_it_is_given(app: Celery, wrong: Any) -> None:
    pending = Bus(app).closure(lambda: None)

    with pytest.raises(ValueError, match="the delay must be seconds or a timedelta, not negative"):
        pending.delay(wrong)


def test_the_modules_of_closures_are_not_needed_by_others(app: Celery) -> None:
    assert "cloudpickle" not in vars(closures)
    assert "itsdangerous" not in vars(closures)
