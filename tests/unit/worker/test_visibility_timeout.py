"""The warning of jobs that may run for longer than their broker waits."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_laravel import install
from celery_laravel.worker.visibility_timeout import warn_of_long_jobs

KOMBUS_REDIS = {"broker_url": "redis://", "laravel_safe_redis": False}


def make_app(**conf: Any) -> Celery:
    app = Celery("long", set_as_current=False)
    app.conf.update({**KOMBUS_REDIS, **conf})
    return install(app)


def declare(app: Celery, name: str, **options: Any) -> None:
    @app.task(name=name, shared=False, **options)
    def job() -> None:
        """Take long."""


def warnings_of(app: Celery, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    app.finalize()
    warn_of_long_jobs(app)
    return [record.getMessage() for record in caplog.records]


def test_it_names_the_tasks_and_both_figures(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(broker_transport_options={"visibility_timeout": 600})
    declare(app, "longer", tries=2, timeout=900)
    declare(app, "equal", tries=2, timeout=600)
    declare(app, "shorter", tries=2, timeout=599)
    declare(app, "hard", acks_late=True, time_limit=700)
    declare(app, "without", tries=2)

    (warning,) = warnings_of(app, caplog)

    assert "600 s (its visibility timeout)" in warning
    assert "equal (600 s), hard (700 s), longer (900 s)." in warning


def test_kombus_default_is_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    declare(app, "longer", tries=2, timeout=3601)
    declare(app, "shorter", tries=2, timeout=3599)

    (warning,) = warnings_of(app, caplog)

    assert "3600 s" in warning
    assert "shorter" not in warning


def test_the_hard_limit_ends_a_job_before_its_timeout_would(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    declare(app, "ended", tries=2, timeout=7200, time_limit=1800)

    assert warnings_of(app, caplog) == []


@pytest.mark.parametrize("conf", [{"laravel_timeout": 7200}, {"task_soft_time_limit": 7200}, {"task_time_limit": 7200}])
def test_a_limit_of_the_app_is_every_tasks(conf: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(**conf)
    declare(app, "mine", tries=2)

    (warning,) = warnings_of(app, caplog)

    assert "mine (7200 s)" in warning


def test_a_message_that_is_acknowledged_early_is_not_delivered_again(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    declare(app, "early", tries=2, timeout=7200, acks_late=False)

    assert warnings_of(app, caplog) == []


@pytest.mark.parametrize(
    "conf",
    [
        {"broker_url": "amqp://"},
        {"broker_url": "redis://", "laravel_safe_redis": True},
        {"broker_url": "sentinel://", "laravel_safe_redis": True},
        {"broker_url": "database+sqlite://"},
        {"broker_url": "memory://"},
    ],
)
def test_a_broker_that_waits_while_the_worker_lives_is_fine(
    conf: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(**conf)
    declare(app, "longer", tries=2, timeout=7200)

    assert warnings_of(app, caplog) == []
