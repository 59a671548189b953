"""Chains while they are built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import chord, group

from celery_laravel import Bus, install
from celery_laravel.message.canvas import tasks_of
from celery_laravel.message.closures import TASK
from celery_laravel.message.header import read_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    app = install(make_app())
    app.task(shared=False, name="step")(step)
    app.task(shared=False, name="alert")(alert)
    return app


def step(*args: Any) -> Any:
    return args


def alert(error: Exception, *args: Any) -> None: ...


def sig(app: Celery, *args: Any) -> Any:
    return app.tasks["step"].si(*args)


def chains_of(signature: Any) -> list[Any]:
    return [read_header(task["options"].get("headers")).chain for task in tasks_of(signature)]


def test_every_step_knows_whom_to_call(app: Celery) -> None:
    canvas = group(sig(app, 2), sig(app, 3))
    pending = Bus(app).chain([sig(app, 1), canvas, sig(app, 4)]).catch(app.tasks["alert"].s("ops"))

    marks = chains_of(pending.signature())

    assert len(marks) == 4
    assert len({mark["id"] for mark in marks}) == 1
    assert marks[0]["catch"][0]["task"] == "alert"
    assert chains_of(pending.signature())[0]["id"] != marks[0]["id"], "each dispatch is a chain of its own"


def test_without_callbacks_messages_are_celerys(app: Celery) -> None:
    assert chains_of(Bus(app).chain([sig(app, 1), sig(app, 2)]).signature()) == [None, None]


def test_the_users_signatures_are_left_alone(app: Celery) -> None:
    own = sig(app, 1)

    Bus(app).chain([own, sig(app, 2)]).catch(app.tasks["alert"].s()).on_queue("slow").delay(5).signature()

    assert own.options == {}


def test_a_chain_of_one_step_is_that_step(app: Celery) -> None:
    signature = Bus(app).chain([sig(app, 1)]).on_queue("slow").delay(5).signature()

    assert (signature.task, signature.options["queue"], signature.options["countdown"]) == ("step", "slow", 5)


def test_the_delay_is_the_first_steps_and_a_groups_every_member(app: Celery) -> None:
    single = Bus(app).chain([sig(app, 1), sig(app, 2)]).delay(5).signature()
    many = Bus(app).chain([group(sig(app, 1), sig(app, 2)), sig(app, 3)]).delay(5).signature()

    assert [task["options"].get("countdown") for task in tasks_of(single)] == [5, None]
    assert [task["options"].get("countdown") for task in tasks_of(many)] == [5, 5, None]


def test_a_chord_stands_in_a_chain(app: Celery) -> None:
    step = chord([sig(app, 1), sig(app, 2)], sig(app, 3))

    marks = chains_of(Bus(app).chain([step, sig(app, 4)]).catch(app.tasks["alert"].s()).signature())

    assert all(marks)
    assert len(marks) == 4


@pytest.mark.parametrize("steps", [[], None, "step", 42], ids=repr)
def test_what_is_no_list_of_signatures_is_refused(app: Celery, steps: Any) -> None:
    with pytest.raises(TypeError):
        Bus(app).chain(steps)


def test_a_task_in_place_of_a_signature_is_refused_with_what_to_write(app: Celery) -> None:
    with pytest.raises(TypeError, match=r"Did you mean step\.s"):
        Bus(app).chain([app.tasks["step"]])


def test_a_plain_function_needs_a_key(app: Celery) -> None:
    with pytest.raises(TypeError, match="laravel_secret_key"):
        Bus(app).chain([sig(app, 1)]).catch(lambda error: None)


def test_functions_are_steps_and_callbacks_with_a_key(make_app: Callable[..., Celery]) -> None:
    app = make_app()
    app.conf.laravel_secret_key = "a long and random string"
    install(app)
    app.task(shared=False, name="step")(step)

    signature = Bus(app).chain([sig(app, 1), lambda: None]).catch(lambda error: None).signature()

    assert [task["task"] for task in tasks_of(signature)] == ["step", TASK]
    assert chains_of(signature)[0]["catch"][0]["task"] == TASK


def test_a_callback_whose_arguments_cannot_travel_is_refused(app: Celery) -> None:
    with pytest.raises(TypeError, match="JSON"):
        Bus(app).chain([sig(app, 1)]).catch(app.tasks["alert"].s(object())).signature()


@pytest.mark.parametrize("delay", [-1, "5", float("nan")], ids=repr)
def test_a_delay_that_is_none_is_refused(app: Celery, delay: Any) -> None:
    with pytest.raises(ValueError, match="delay"):
        Bus(app).chain([sig(app, 1)]).delay(delay)


def test_a_condition_decides(make_app: Callable[..., Celery]) -> None:
    app = make_app(task_always_eager=True)
    install(app)
    app.task(shared=False, name="step")(step)

    assert Bus(app).chain([sig(app, 1)]).dispatch_if(lambda: True) is not None
    assert Bus(app).chain([sig(app, 1)]).dispatch_if(False) is None
    assert Bus(app).chain([sig(app, 1)]).dispatch_unless(True) is None
    assert Bus(app).chain([sig(app, 1)]).dispatch_unless(lambda: False) is not None


def test_a_closure_that_catches_is_verified_in_every_round() -> None:
    from celery_laravel.errors import InvalidSignatureError
    from celery_laravel.message.closures import pack, unpack

    payload = pack("content", function=print, keys=["key"], task_id="chain-1:catch")

    assert unpack(payload, keys=["key"], task_id="chain-1:catch:0:0") == "content"
    assert unpack(payload, keys=["key"], task_id="chain-1:catch:7:1") == "content"
    for task_id in ("chain-2:catch:0:0", "chain-1", "other:chain-1:catch:0"):
        with pytest.raises(InvalidSignatureError):
            unpack(payload, keys=["key"], task_id=task_id)
