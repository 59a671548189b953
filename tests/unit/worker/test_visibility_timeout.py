"""The warning of jobs that may run for longer than their broker waits."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import kombu.transport
import pytest
from celery import Celery
from kombu.transport import virtual

from celery_laravel import install
from celery_laravel.worker.visibility_timeout import warn_of_long_jobs

KOMBUS_REDIS = {"broker_url": "redis://", "laravel_safe_redis": False}


HEAD = "The broker delivers a job again"


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

    assert warning.splitlines() == [
        f"{HEAD} after 600 s (visibility_timeout), although it still runs. These may run for as long or longer:",
        "  equal (600 s)",
        "  hard (700 s)",
        "  longer (900 s)",
        "Set visibility_timeout in broker_transport_options to more than 900.",
    ]


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


def test_a_task_whose_messages_are_late_in_a_batch_alone_says_so(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    declare(app, "import", timeout=7200)
    declare(app, "plain", time_limit=7200)

    (warning,) = warnings_of(app, caplog)

    when = ", when it is in a batch, or a chain with catch)"
    assert warning.splitlines()[1:-1] == [f"  import (7200 s{when}", f"  plain (7200 s{when}"]


def test_tasks_that_are_not_the_users_are_not_named(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(laravel_timeout=7200)
    declare(app, "mine", tries=2)

    (warning,) = warnings_of(app, caplog)

    assert {name for name in app.tasks if name.startswith(("celery.", "celery_laravel."))}
    named = [line.split()[0] for line in warning.splitlines()[1:-1]]
    assert "mine" in named
    assert not [name for name in named if name.startswith(("celery.", "celery_laravel."))]


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


class Stranger(virtual.Transport):
    """What a broker's transport in kombu says of itself, where its package is not installed here."""

    driver_type = "stranger"

    class Channel(virtual.Channel):
        pass


def stand_in(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> None:
    """Have the app's broker be a stranger whose channels have these attributes."""
    channel = type("Channel", (virtual.Channel,), attributes)
    transport = type("Transport", (Stranger,), {"Channel": channel})
    monkeypatch.setattr("kombu.connection.Connection.get_transport_cls", lambda self: transport)


SQS = {"default_visibility_timeout": 1800, "visibility_timeout": cached_property(lambda self: 1800)}


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({}, "1800"), ({"visibility_timeout": 300}, "300"), ({"visibility_timeout": "300"}, "300")],
)
def test_sqs_waits_for_half_an_hour_unless_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, options: dict[str, Any], seconds: str
) -> None:
    stand_in(monkeypatch, **SQS)
    app = make_app(broker_transport_options=options)
    declare(app, "longer", tries=2, timeout=1801)
    declare(app, "short", tries=2, timeout=299)

    (warning,) = warnings_of(app, caplog)

    assert f"after {seconds} s (visibility_timeout)" in warning
    assert warning.splitlines()[1:-1] == ["  longer (1801 s)"]


SERVICE_BUS_BEFORE = {"default_peek_lock_seconds": 60, "peek_lock_seconds": cached_property(lambda self: 60)}
SERVICE_BUS = {
    **SERVICE_BUS_BEFORE,
    "default_use_lock_renewal": False,
    "default_max_lock_renewal_duration": 3600.0,
}


@pytest.mark.parametrize(
    ("channel", "options", "told_and_remedy"),
    [
        (
            SERVICE_BUS,
            {},
            ("60 s (peek_lock_seconds)", "Set use_lock_renewal in broker_transport_options to True, and"),
        ),
        (SERVICE_BUS, {"peek_lock_seconds": 900}, ("300 s (peek_lock_seconds)", "max_lock_renewal_duration to more")),
        (
            SERVICE_BUS,
            {"use_lock_renewal": True},
            (
                "3600 s (max_lock_renewal_duration)",
                "Set max_lock_renewal_duration in broker_transport_options to more than 7200.",
            ),
        ),
        (SERVICE_BUS_BEFORE, {"use_lock_renewal": True}, ("60 s (peek_lock_seconds)", "300 at most")),
    ],
)
def test_service_bus_waits_for_a_minute_or_for_as_long_as_its_lock_is_renewed(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    channel: dict[str, Any],
    options: dict[str, Any],
    told_and_remedy: tuple[str, str],
) -> None:
    told, remedy = told_and_remedy
    stand_in(monkeypatch, **channel)
    app = make_app(broker_transport_options=options)
    declare(app, "longer", tries=2, timeout=7200)

    (warning,) = warnings_of(app, caplog)

    assert f"after {told}" in warning
    assert remedy in warning.splitlines()[-1]


def test_a_lock_that_is_renewed_for_long_enough_is_fine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(monkeypatch, **SERVICE_BUS)
    app = make_app(broker_transport_options={"use_lock_renewal": True, "max_lock_renewal_duration": 7201})
    declare(app, "longer", tries=2, timeout=7200)

    assert warnings_of(app, caplog) == []


def test_kombu_puts_off_the_deadline_of_pub_sub(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(monkeypatch, default_ack_deadline_seconds=240, ack_deadline_seconds=cached_property(lambda self: 240))
    app = make_app(broker_transport_options={"ack_deadline_seconds": 10})
    declare(app, "longer", tries=2, timeout=7200)

    assert warnings_of(app, caplog) == []


def test_what_is_said_of_kombus_transports_is_so() -> None:
    """Their packages are not installed here, so their source is asked."""
    folder = Path(kombu.transport.__file__).parent
    texts = {name: (folder / name).read_text() for name in ("azureservicebus.py", "gcpubsub.py")}
    (sqs,) = [
        path for path in (folder / "SQS.py", folder / "SQS" / "__init__.py") if path.exists()
    ]  # a package of late
    assert "default_visibility_timeout = 1800" in sqs.read_text()
    assert "default_peek_lock_seconds: int = 60" in texts["azureservicebus.py"]
    assert ("default_use_lock_renewal" in texts["azureservicebus.py"]) == (
        "default_max_lock_renewal_duration" in texts["azureservicebus.py"]
    )
    assert "target=self._extend_unacked_deadline" in texts["gcpubsub.py"]
