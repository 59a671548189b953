"""A worker whose store cannot be used loses no job by it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery.app.trace import build_tracer
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils import uuid

from celery_laravel import install
from celery_laravel.stores.factory import store_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from celery import Celery


def test_a_job_whose_store_cannot_be_opened_is_put_back_instead_of_failed(
    make_app: Callable[..., Celery], caplog: pytest.LogCaptureFixture
) -> None:
    """The way of tables that have not been migrated, or of a driver that is not installed: a mistake to be mended."""
    app = make_app()
    app.conf.laravel_store = "nosuch://server/0"
    install(app)
    ran: list[int] = []

    @app.task(tries=1)
    def count() -> None:
        ran.append(1)

    app.finalize()
    task: Any = app.tasks[count.name]
    task_id = uuid()
    request = {
        "id": task_id,
        "args": (),
        "kwargs": {},
        "is_eager": False,
        "hostname": "here",
        "delivery_info": {"exchange": "", "routing_key": app.main},
    }
    with caplog.at_level(logging.ERROR):
        build_tracer(task.name, task, app=app)(task_id, (), {}, request)
    assert app.AsyncResult(task_id).state == "RETRY"
    assert ran == []
    assert "'nosuch://server/0' is no store this library knows" in caplog.text


def test_a_job_whose_timeout_is_over_before_it_has_begun_is_put_back_instead_of_failed(
    make_app: Callable[..., Celery], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = install(make_app())
    ran: list[int] = []

    @app.task(tries=1, timeout=1)
    def count() -> None:
        ran.append(1)

    def begin(*_: Any, **__: Any) -> None:
        raise SoftTimeLimitExceeded

    app.finalize()
    monkeypatch.setattr(store_of(app).attempts, "begin", begin)
    task: Any = app.tasks[count.name]
    task_id = uuid()
    request = {"id": task_id, "args": (), "kwargs": {}, "is_eager": False, "hostname": "here", "delivery_info": {}}
    with caplog.at_level(logging.ERROR):
        build_tracer(task.name, task, app=app)(task_id, (), {}, request)
    assert app.AsyncResult(task_id).state == "RETRY"
    assert ran == []
    assert "its timeout was over before the store had answered" in caplog.text
