"""What may be called back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import group

from celery_laravel import Bus, Job

if TYPE_CHECKING:
    from celery import Celery


@pytest.fixture
def tasks(app: Celery) -> Any:
    """Tasks that take nothing, a batch, and a batch with an error."""

    @app.task(name="nothing")
    def nothing() -> None: ...

    @app.task(name="batch_alone", bind=True)
    def batch_alone(self: Any, batch: Any) -> None: ...

    @app.task(name="with_error")
    def with_error(batch: Any, error: Any, address: str) -> None: ...

    return app.tasks


@pytest.mark.parametrize(
    ("kind", "name", "own"),
    [("then", "nothing", ()), ("finally_", "nothing", ()), ("then", "batch_alone", (1,)), ("catch", "with_error", ())],
)
def test_a_task_that_does_not_take_what_it_is_given_is_refused_at_once(
    app: Celery, tasks: Any, kind: str, name: str, own: tuple[Any, ...]
) -> None:
    """It could not be published later, by any worker, and would stay owed for ever."""
    pending = Bus(app).batch([])
    with pytest.raises(TypeError, match=rf"{name} does not take"):
        getattr(pending, kind)(tasks[name].s(*own))


def test_what_cannot_be_judged_or_takes_what_it_is_given_passes(app: Celery, tasks: Any) -> None:
    pending = Bus(app).batch([]).then(tasks["nothing"].si()).then(tasks["batch_alone"].s())
    pending.then(app.signature("another.workers")).then(group(tasks["batch_alone"].s()))
    pending.catch(tasks["with_error"].s("ops@example.org")).catch(tasks["with_error"].s(address="ops@example.org"))


def test_an_option_that_json_cannot_carry_is_named(app: Celery) -> None:
    with pytest.raises(TypeError, match=r"with_option\('owner', <object"):
        Bus(app).batch([]).with_option("owner", object())


def test_a_job_whose_class_was_registered_passes(app: Celery) -> None:
    """Celery, too, checks no arguments of those."""

    class Tell(Job):
        name = "tell"

        def run(self, batch: Any) -> None: ...

    Bus(app).batch([]).then(app.register_task(Tell()).s())
