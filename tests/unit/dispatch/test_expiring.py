"""Which messages tell the broker when they expire, and which only the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel import Job, install

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

pytestmark = pytest.mark.matrix


def sent(app: Celery, *, expires: float, **options: Any) -> tuple[Any, Any]:
    """When the broker and when the worker is told that a job of a task with these options expires."""
    task = app.task(name="job", base=Job, shared=False, **options)(nothing)
    task.apply_async(expires=expires)
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get(app.main, no_ack=True)
    return message.properties.get("expiration"), message.headers["expires"]


def nothing() -> None: ...


@pytest.mark.parametrize("prepare", [install, lambda app: app], ids=["installed", "a task alone"])
@pytest.mark.parametrize("options", [{"unique": True}, {"debounce_for": 1}], ids=lambda options: next(iter(options)))
def test_the_message_of_a_job_that_something_waits_for_is_left_to_its_worker(
    make_app: Callable[..., Celery], prepare: Any, options: dict[str, Any]
) -> None:
    to_broker, to_worker = sent(prepare(make_app()), expires=60, **options)
    assert to_broker is None
    assert to_worker is not None


def test_that_of_any_other_is_celerys(make_app: Callable[..., Celery]) -> None:
    to_broker, to_worker = sent(install(make_app()), expires=60, tries=3)
    assert to_broker == "60000"
    assert to_worker is not None
