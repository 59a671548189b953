"""Unique jobs that are sent by name: by `send_task`, and by beat."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry, Scheduler

from celery_laravel import install
from tests.unit.unique.scripted import job, nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.unique.conftest import Worker

pytestmark = pytest.mark.matrix


def test_send_task_by_a_known_name_is_checked(app: Celery, worker: Worker) -> None:
    task = job(app, unique_id="value")
    first = app.send_task("job", (1,))
    assert not first.suppressed
    assert app.send_task("job", kwargs={"value": 1}, countdown=5).id == first.id
    assert task.delay(1).suppressed
    assert app.signature("job", args=(1,)).apply_async().suppressed
    assert not app.send_task("job", (2,)).suppressed
    worker.work_until_idle()
    assert task.ran == [1, 2]


def test_send_task_of_other_names_is_celerys_own(app: Celery, worker: Worker) -> None:
    job(app)
    app.send_task("elsewhere", (1,), queue=app.main, headers={"mine": 1})
    [message] = worker.messages()
    assert message.headers["task"] == "elsewhere"
    assert message.headers["mine"] == 1


def test_send_task_knows_the_jobs_that_have_been_declared_and_nothing_else_yet(make_app: Callable[..., Celery]) -> None:
    """Celery makes a declared task only when somebody asks for the app's tasks, as `send_task` of its own does not."""
    app = install(make_app())
    app.task(name="declared", unique=True)(nothing)
    assert not app.finalized
    assert [app.send_task("declared").suppressed for _ in range(2)] == [False, True]


def test_an_app_without_such_jobs_keeps_celerys_send_task(app: Celery) -> None:
    job(app, unique=False)
    app.send_task("job")
    assert "send_task" not in vars(app)


def test_an_app_without_such_jobs_keeps_its_own_send_task(make_app: Callable[..., Celery]) -> None:
    app = make_app()
    app.send_task = send_by_name
    install(app)
    assert app.send_task("elsewhere") == "sent elsewhere"
    assert app.send_task is send_by_name


def test_a_tool_that_wraps_celerys_send_task_before_the_tasks_are_known_stays(
    make_app: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = install(make_app())
    monkeypatch.setattr(Celery, "send_task", lambda _, name: f"traced {name}")
    assert [app.send_task("elsewhere") for _ in range(2)] == ["traced elsewhere"] * 2
    assert "send_task" not in vars(app)


def test_a_tool_that_wraps_the_apps_send_task_before_the_tasks_are_known_stays(
    make_app: Callable[..., Celery],
) -> None:
    app = install(make_app())
    send, seen = app.send_task, []

    @wraps(send)
    def traced(name: str, *args: Any, **options: Any) -> Any:
        seen.append(name)
        return send(name, *args, **options)

    app.send_task = traced
    app.send_task("elsewhere")
    app.send_task("elsewhere")
    assert seen == ["elsewhere"] * 2


def test_an_app_that_is_not_to_be_finalized_by_itself_sends_by_name_all_the_same(
    make_app: Callable[..., Celery],
) -> None:
    app = install(make_app())
    app.autofinalize = False
    app.task(name="declared", unique=True)(nothing)
    app.send_task("declared")
    assert not app.finalized


def test_beat_entries_by_name_are_checked(app: Celery, worker: Worker) -> None:
    task = job(app, unique_id="value")
    scheduler = Scheduler(app, lazy=True)
    results = [
        scheduler.apply_async(ScheduleEntry("entry", "job", schedule=60, args=(1,), app=app), advance=False)
        for _ in range(2)
    ]
    assert [result.suppressed for result in results] == [False, True]
    worker.work_until_idle()
    assert task.ran == [1]


def send_by_name(name: str, *_: Any, **__: Any) -> str:
    return f"sent {name}"
