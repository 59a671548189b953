from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import pytest
from celery import Celery
from kombu.utils.json import dumps

from celery_laravel import Bus
from celery_laravel.runtime import runtime_of
from celery_laravel.stores.records import NewDelay
from tests.cli.conftest import Run
from tests.transport.conftest import BROKERS, MARKS

Park = Callable[..., None]


@pytest.fixture
def park(app: Celery) -> Iterator[Park]:
    """A function that has a job of an id wait, for an hour unless told otherwise."""
    delays = runtime_of(app).store.delays

    def park(
        job_id: str, hours: float = 1, queue: str = "mails", kwargs: str = "{}", batch_id: str | None = None
    ) -> None:
        headers: dict[str, object] = {"id": job_id, "argsrepr": "(7,)", "kwargsrepr": kwargs}
        if batch_id is not None:
            headers["laravel"] = {"v": 1, "batch_id": batch_id, "index": 0}
        message = dumps({"headers": headers})
        delays.park([NewDelay(f"entry of {job_id}", job_id, "shop.charge", queue, message, timedelta(hours=hours))])

    yield park
    delays.remove([record.entry for record in delays.all()])


def test_what_waits_is_listed_first_due_first(run: Run, park: Park):
    park("later", hours=30, kwargs="{'currency': 'EUR'}")
    park("sooner", queue="celery")
    result = run("delayed")
    assert result.exit_code == 0
    header, first, second = result.stdout.splitlines()
    assert header.split() == ["ID", "TASK", "QUEUE", "DUE", "IN", "ARGUMENTS"]
    assert first.split()[:3] == ["sooner", "shop.charge", "celery"]
    assert first.endswith("(7,)")
    assert second.startswith("later")
    assert second.endswith("(7,) {'currency': 'EUR'}")
    assert [line.split()[0] for line in run("delayed", "--queue", "mails").stdout.splitlines()[1:]] == ["later"]


def test_no_delayed_job_is_no_error(run: Run):
    result = run("delayed")
    assert (result.exit_code, result.stdout) == (0, "No delayed jobs wait.\n")
    assert run("delayed", "--queue", "mails").stdout == "No delayed jobs wait for the queue 'mails'.\n"
    assert json.loads(run("delayed", "--json").stdout) == []


def test_a_listing_in_json_is_one_document_with_the_attributes_of_the_job(run: Run, park: Park):
    park("one", batch_id="batch")
    (job,) = json.loads(run("delayed", "--json").stdout)
    parked_at, due_at = (datetime.fromisoformat(job.pop(name)) for name in ("parked_at", "due_at"))
    assert due_at - parked_at == timedelta(hours=1)
    assert abs((datetime.now(timezone.utc) - parked_at).total_seconds()) < 60
    assert job == {
        "id": "one",
        "task": "shop.charge",
        "queue": "mails",
        "args_repr": "(7,)",
        "kwargs_repr": "{}",
        "batch_id": "batch",
        "revoked": False,
    }


def test_a_limit_shortens_the_list(run: Run, park: Park):
    for number in range(3):
        park(f"job-{number}", hours=number + 1)
    result = run("delayed", "--limit", "2", "--json")
    assert [job["id"] for job in json.loads(result.stdout)] == ["job-0", "job-1"]
    assert "2 of 3 delayed jobs shown; --limit 0 shows all." in result.stderr
    assert len(json.loads(run("delayed", "--limit", "0", "--json").stdout)) == 3


def test_a_job_is_called_off_by_its_id(run: Run, park: Park, app: Celery):
    park("one")
    result = run("cancel-delayed", "one")
    assert (result.exit_code, result.stdout) == (0, "The job 'one' (shop.charge) will not run.\n")
    job = Bus(app).delayed.find("one")
    assert job is not None
    assert job.revoked
    assert "revoked" in run("delayed").stdout


def test_an_id_that_does_not_wait_is_an_error_that_names_close_ones(run: Run, park: Park, app: Celery):
    park("job-7")
    result = run("cancel-delayed", "job-8")
    assert result.exit_code == 1
    assert result.stderr == "Error: No delayed job 'job-8' waits. Did you mean job-7?\n"
    assert Bus(app).delayed.count() == 1


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, [])) for name in ("sqlite", "postgresql")])
def database_broker(request: pytest.FixtureRequest, app: Celery) -> Iterator[None]:
    """The app on a database broker, which keeps delays itself."""
    with BROKERS[request.param](request) as url:
        app.conf.broker_url = url
        yield


@pytest.mark.usefixtures("database_broker")
@pytest.mark.parametrize("store_url", ["memory://"])
def test_what_a_database_broker_keeps_is_listed_and_called_off(run: Run, park: Park, app: Celery):
    park("in-the-store", hours=3)
    for hours in (2, 4):
        app.tasks["shop.charge"].apply_async((hours,), task_id=f"job-{hours}", countdown=hours * 3600)
    result = run("delayed")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["ID", "job-2", "in-the-store", "job-4"]
    assert result.stdout.splitlines()[1].split()[1:3] == ["shop.charge", "celery"]
    (job,) = json.loads(run("delayed", "--queue", "celery", "--limit", "1", "--json").stdout)
    assert (job["id"], job["parked_at"], job["args_repr"], job["revoked"]) == ("job-2", None, "(2,)", False)
    assert "1 of 3 delayed jobs shown" in run("delayed", "--limit", "1").stderr

    result = run("cancel-delayed", "job-3")
    assert result.exit_code == 1
    assert "Did you mean job-4 or job-2?" in result.stderr
    result = run("cancel-delayed", "job-4")
    assert (result.exit_code, result.stdout) == (0, "The job 'job-4' (shop.charge) will not run.\n")
    listed = {job["id"]: job["revoked"] for job in json.loads(run("delayed", "--json").stdout)}
    assert listed == {"job-4": True, "job-2": False, "in-the-store": False}


@pytest.mark.parametrize("store_url", ["memory://"])
def test_a_database_broker_that_does_not_answer_is_an_error(run: Run, app: Celery):
    app.conf.broker_url = "database+postgresql+psycopg://nobody@127.0.0.1:1/nowhere"
    result = run("delayed")
    assert result.exit_code == 3
    assert "Cannot reach the broker" in result.stderr
