"""What goes wrong is told in a line, with a code that says what kind it was."""

from __future__ import annotations

import secrets
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result
from kombu.serialization import dumps

from celery_laravel import install
from celery_laravel.cli.main import laravel
from celery_laravel.job import Job
from celery_laravel.stores.factory import failed_jobs_of, forget_stores
from celery_laravel.stores.records import FailedJob
from celery_laravel.testing.processes import free_port
from celery_laravel.transport.database import migrating
from celery_laravel.transport.database.errors import BrokerUnusableError
from celery_laravel.transport.database.options import BrokerOptions
from celery_laravel.transport.database.tables import SCHEMA_VERSION


def run(app: Celery, *arguments: str) -> Result:
    return CliRunner().invoke(laravel, arguments, obj=CLIContext(app=app, no_color=False, workdir=None))


def make_app(**settings: object) -> Celery:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(settings)
    return app


def test_a_store_that_does_not_answer():
    result = run(install(make_app(laravel_store=f"redis://:secret@127.0.0.1:{free_port()}/0")), "failed")
    assert result.exit_code == 3
    assert result.stderr.startswith("Error: Cannot reach the store at redis://:***@127.0.0.1")
    assert "secret" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("delayed",), ("retry", "all")])
def test_a_broker_that_has_to_be_mended_is_not_called_unreachable(command: tuple[str, ...], tmp_path: Path):
    """Its error says what to do; to ask whether it runs would lead astray."""
    broken = tmp_path / "queue.db"
    app = install(make_app(broker_url=f"database+sqlite:///{broken}", laravel_store="memory://"))
    signature = app.signature("shop.charge", task_id="id")
    content_type, encoding, body = dumps(dict(signature), serializer="json")
    payload = {"content_type": content_type, "content_encoding": encoding, "body": body, "is_base64": False}
    now = datetime.now(timezone.utc)
    failed_jobs_of(app).record(
        FailedJob("id", "default", "celery", "shop.charge", "()", "{}", "ValueError: no", "", now, 1, None, payload)
    )
    broken.write_text("no database at all, and long enough to be seen as none " * 100)
    result = run(app, *command)
    assert result.exit_code == 4, result.stderr
    assert str(broken) in result.stderr
    assert "Is it running" not in result.stderr
    assert result.stderr.count("\n") == 1
    forget_stores(app)


@pytest.mark.parametrize(
    ("url", "extra"),
    [
        ("sqlite:///jobs.db", "sqlalchemy"),
        ("postgresql+psycopg://somebody:secret@127.0.0.1/jobs", "postgresql"),
        ("mysql+pymysql://somebody:secret@127.0.0.1/jobs", "mysql"),
        ("mariadb+pymysql://somebody:secret@127.0.0.1/jobs", "mysql"),
    ],
)
def test_an_extra_that_is_missing_is_named_with_all_that_the_url_needs(
    url: str, extra: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "sqlalchemy.engine", None)
    result = run(install(make_app(laravel_store=url)), "failed")
    assert result.exit_code == 4
    assert result.stderr.endswith(f"which is not installed: pip install 'celery-laravel[{extra}]'.\n")
    assert "secret" not in result.stderr


def test_a_setting_that_is_wrong():
    result = run(install(make_app(laravel_stor="memory://")), "failed")
    assert result.exit_code == 4
    assert "Did you mean 'laravel_store'?" in result.stderr


def test_an_app_that_has_not_been_installed():
    result = run(make_app(laravel_store="memory://"), "failed")
    assert result.exit_code == 4
    assert "celery-laravel is not installed in the app 'shop'" in result.stderr


def test_a_single_job_class_is_enough():
    app = make_app(laravel_store="memory://")

    @app.task(base=Job, name="shop.one", shared=False)
    def one() -> None:
        return None

    assert run(app, "failed").exit_code == 0


def test_a_store_that_keeps_no_failed_jobs_says_so():
    result = run(install(make_app(laravel_store="memory://", laravel_failed_store="null://")), "failed")
    assert (result.exit_code, result.stdout) == (
        0,
        "No failed jobs: 'laravel_failed_store' is null://, which keeps none.\n",
    )


def test_a_store_without_tables_has_nothing_to_migrate():
    result = run(install(make_app(laravel_store="memory://")), "migrate")
    assert (result.exit_code, result.stdout) == (0, "memory://: nothing to do, this kind of store has no tables.\n")


def test_sql_stores_are_migrated_once_each(tmp_path: Path):
    store, failed = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    app = install(make_app(laravel_store=store, laravel_failed_store=failed))
    first = run(app, "migrate")
    assert first.exit_code == 0, first.stderr
    assert [line.partition(": ")[0] for line in first.stdout.splitlines()] == [store, failed]
    assert "migrated to" in first.stdout
    assert run(app, "migrate").stdout == f"{store}: up to date.\n{failed}: up to date.\n"


def test_stores_and_brokers_that_tasks_and_connections_name_are_migrated_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever uses one without tables is told to run this command."""
    locks, broker = f"sqlite:///{tmp_path}/locks.db", "database+postgresql+psycopg://user:secret@db/jobs"
    app = install(make_app(laravel_store="memory://", laravel_connections={"reports": broker}))

    @app.task(name="shop.elsewhere", shared=False, unique=True, unique_via=locks)
    def elsewhere() -> None: ...

    migrated: list[str] = []

    def migrate(options: BrokerOptions) -> list[int]:
        migrated.append(options.url)
        return [SCHEMA_VERSION]

    monkeypatch.setattr(migrating, "migrate", migrate)
    assert f"{locks}: migrated to" in run(app, "migrate").stdout
    assert migrated == [broker.removeprefix("database+")]
    result = run(app, "migrate")
    assert f"{locks}: up to date." in result.stdout
    assert "secret" not in result.stdout


def test_stores_are_migrated_although_the_tasks_cannot_be_imported(tmp_path: Path):
    store = f"sqlite:///{tmp_path}/a.db"
    result = run(install(make_app(laravel_store=store, imports=["no_such_module"])), "migrate")
    assert (result.exit_code, result.stdout.partition(" to ")[0]) == (0, f"{store}: migrated")
    assert "no_such_module" in result.stderr


@pytest.mark.postgresql
def test_a_server_without_tables_says_what_to_run_and_that_makes_them(postgresql_url: str):
    """The database is this run's alone and is dropped at its end; the prefix is this test's."""
    app = install(make_app(laravel_store=postgresql_url, laravel_prefix=f"cli_{secrets.token_hex(4)}"))
    before = run(app, "failed")
    assert before.exit_code == 4
    assert before.stderr.count("\n") == 1
    assert "laravel migrate" in before.stderr
    migrated = run(app, "migrate")
    assert migrated.exit_code == 0, migrated.stderr
    assert "migrated to" in migrated.stdout
    assert run(app, "failed").stdout == "No failed jobs.\n"
    assert "up to date" in run(app, "migrate").stdout
    forget_stores(app)


@pytest.mark.postgresql
def test_a_broker_without_tables_says_what_to_run_and_that_makes_them(postgresql_url: str):
    """The prefix is this test's; the database is dropped at the end of the run."""
    broker = f"database+{postgresql_url}"
    options = {"table_prefix": f"cli_{secrets.token_hex(4)}_"}
    app = install(make_app(broker_url=broker, broker_transport_options=options, laravel_store="memory://"))
    with pytest.raises(BrokerUnusableError, match="laravel migrate"):
        app.send_task("any")
    assert run(app, "migrate").stdout.splitlines()[-1] == f"{broker}: migrated to {SCHEMA_VERSION}."
    app.send_task("any")
    assert run(app, "migrate").stdout.splitlines()[-1] == f"{broker}: up to date."
    app.close()
