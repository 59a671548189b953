"""Jobs whose arguments do not fit their task any more, as those of messages that were sent before a deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_laravel import Bus
from tests.unit.unique.conftest import Worker

if TYPE_CHECKING:
    from celery import Celery

pytestmark = pytest.mark.matrix


def test_a_job_whose_arguments_do_not_fit_fails_when_its_attempts_are_used_up(app: Celery) -> None:
    """A dispatch refuses such arguments; refused when put back, it would come again for ever."""

    @app.task(name="job", tries=3)
    def job(number: int) -> None: ...

    app.send_task("job", kwargs={"amount": 7})
    worker = Worker(app)
    starts = 0
    while count := worker.work():
        starts += count
        assert starts <= 3
    (record,) = Bus(app).failed.all()
    assert (starts, record.attempts) == (3, 3)
    assert record.exception.startswith("TypeError")


def test_a_dispatch_refuses_arguments_that_do_not_fit(app: Celery) -> None:
    @app.task(name="job", tries=3)
    def job(number: int) -> None: ...

    with pytest.raises(TypeError):
        job.apply_async(kwargs={"amount": 7})
    assert Worker(app).messages() == []
