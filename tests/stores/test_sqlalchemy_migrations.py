"""How the tables come to be, and what is said when they are not there."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, insert, inspect, text

from celery_laravel.errors import ConfigurationError
from celery_laravel.stores.records import LockRequest, NewBatch
from celery_laravel.stores.sqlalchemy import SQLAlchemyStore, metadata_for, migrations
from celery_laravel.stores.sqlalchemy.columns import microseconds
from celery_laravel.stores.sqlalchemy.tables import tables_for
from celery_laravel.testing.store_suite.failed_jobs import failed

WORKER = Path(__file__).with_name("sql_worker.py")


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["postgresql", "mariadb"])
def served_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def prefix() -> str:
    """A prefix with no tables yet; the database is removed when the tests have run."""
    return f"m-{uuid4().hex[:8]}"


def tables(url: str, prefix: str) -> set[str]:
    engine = create_engine(url)
    names = {name for name in inspect(engine).get_table_names() if name.startswith(prefix)}
    engine.dispose()
    return names


def execute(url: str, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def run(command: str, url: str, prefix: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(WORKER), command, url, prefix, *arguments], stdout=subprocess.PIPE)


def answers(processes: list[subprocess.Popen[bytes]]) -> list[object]:
    return [json.loads(process.communicate(timeout=60)[0]) for process in processes]


def test_migrating_makes_the_tables_once(url: str, prefix: str):
    store = SQLAlchemyStore(url, prefix)
    assert store.pending_migrations() == [*filter(None, migrations.BEFORE), migrations.HEAD]
    for _ in range(2):
        store.migrate()
        assert store.pending_migrations() == []
    made = {table.name for table in metadata_for(prefix).sorted_tables}
    assert tables(url, prefix) == made | {f"{prefix}_alembic_version"}
    assert store.batches.all() == []
    store.close()


def test_the_tables_are_those_that_are_described(url: str, prefix: str):
    """So a project that has its own Alembic make them gets the same."""
    store = SQLAlchemyStore(url, prefix)
    store.migrate()
    store.close()
    engine = create_engine(url)
    ours = {"include_name": lambda name, kind, _: kind != "table" or f"{name}".startswith(f"{prefix}_")}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=ours | {"version_table": f"{prefix}_alembic_version"})
        differences = compare_metadata(context, metadata_for(prefix))
    engine.dispose()
    assert differences == []


def test_the_store_works_on_tables_that_were_made_without_its_migrations(served_url: str, prefix: str):
    engine = create_engine(served_url)
    metadata_for(prefix).create_all(engine)
    engine.dispose()
    store = SQLAlchemyStore(served_url, prefix)
    assert store.batches.all() == []
    store.close()


@pytest.mark.parametrize("version", [version for version in migrations.BEFORE if version is not None])
def test_tables_of_an_earlier_version_keep_what_is_in_them(url: str, prefix: str, version: str):
    store = SQLAlchemyStore(url, prefix)
    store.migrate(version)
    later = [*migrations.BEFORE, migrations.HEAD]
    assert store.pending_migrations() == later[later.index(version) + 1 :]
    before = SQLAlchemyStore(url, prefix)
    before._database._ready.add(os.getpid())  # as the library of that version, which wants no more
    assert begin(before) == 1
    record_as_before(url, prefix)
    before.batches.create(NewBatch("batch"))
    before.batches.add("batch", 7)
    before.close()
    if not url.startswith("sqlite"):
        with pytest.raises(ConfigurationError, match=r"lacks tables.*celery -A your_app laravel migrate") as raised:
            store.failed_jobs.all()
        assert "LINE" not in str(raised.value), "the statement is of no use to a reader"
        assert begin(store) == 2, "what does not need the new tables works on"
        assert store.failed_jobs.record(failed("later")), "no record of a failure is lost meanwhile"
        store.migrate()
    assert store.locks.acquire(LockRequest("lock", "owner", "overlap")).acquired
    assert store.delays.count() == 0
    assert store.failed_jobs.claim("failed", owner="owner", lease=timedelta(hours=1)) == failed("failed")
    assert store.pending_migrations() == []
    assert begin(store) == 2 + (not url.startswith("sqlite"))
    batch = store.batches.find("batch")
    assert batch is not None
    assert batch.total_jobs == 7
    store.close()


def record_as_before(url: str, prefix: str) -> None:
    """Keep a failed job as the first version did."""
    job = failed("failed")
    values = {name: value for name, value in vars(job).items() if name != "claimed_until"}
    values |= {"failed_at": microseconds(job.failed_at.timestamp())}
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(insert(tables_for(prefix).failed_jobs).values(values))
    engine.dispose()


def begin(store: SQLAlchemyStore) -> int:
    none = timedelta()
    keep = timedelta(hours=1)
    return store.attempts.begin("job", turn=0, attempts=0, exceptions=0, owner="w", lease=none, keep=keep).attempt


def test_processes_that_migrate_at_once_make_the_tables_once(url: str, prefix: str):
    assert answers([run("migrate", url, prefix) for _ in range(3)]) == [[], [], []]


def test_sqlite_makes_its_tables_for_processes_that_start_at_once(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/store.db"
    jobs = [f"job-{number}" for number in range(6)]
    assert answers([run("use", url, "laravel", job) for job in jobs]) == [1] * len(jobs)


def test_a_servers_missing_tables_are_a_configuration_error(served_url: str, prefix: str):
    store = SQLAlchemyStore(served_url, prefix)
    with pytest.raises(ConfigurationError, match=r"lacks tables.*celery -A your_app laravel migrate"):
        store.failed_jobs.count()
    store.migrate()
    assert store.failed_jobs.count() == 0
    store.close()


def test_a_missing_column_is_a_configuration_error(served_url: str, prefix: str):
    store = SQLAlchemyStore(served_url, prefix)
    store.migrate()
    quote = '"' if served_url.startswith("postgresql") else "`"
    execute(served_url, f"ALTER TABLE {quote}{prefix}_failed_jobs{quote} DROP COLUMN task")
    with pytest.raises(ConfigurationError, match="older ones"):
        store.failed_jobs.all()
    store.close()


def test_tables_of_a_newer_version_are_left_alone(url: str, prefix: str):
    store = SQLAlchemyStore(url, prefix)
    store.migrate()
    quote = "`" if url.startswith("mysql") else '"'
    execute(url, f"UPDATE {quote}{prefix}_alembic_version{quote} SET version_num = '9999'")
    store.close()
    newer = SQLAlchemyStore(url, prefix)
    assert newer.failed_jobs.count() == 0
    for ask in (newer.pending_migrations, newer.migrate):
        with pytest.raises(ConfigurationError, match=r"'9999'.*Update celery-laravel"):
            ask()
    newer.close()


def test_a_migration_that_was_broken_off_goes_on(served_url: str, prefix: str):
    """MySQL commits after each table, so that some may be there already."""
    engine = create_engine(served_url)
    tables_for(prefix).attempts.create(engine)
    engine.dispose()
    store = SQLAlchemyStore(served_url, prefix)
    store.migrate()
    assert store.batches.all() == []
    store.close()


def test_a_projects_own_alembic_is_not_disturbed(url: str, prefix: str):
    execute(url, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    try:
        execute(url, "INSERT INTO alembic_version VALUES ('theirs')")
        store = SQLAlchemyStore(url, prefix)
        store.migrate()
        store.close()
        engine = create_engine(url)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["theirs"]
        engine.dispose()
    finally:
        execute(url, "DROP TABLE alembic_version")


def test_sqlite_makes_its_tables_again_when_the_file_has_gone(tmp_path: Path):
    store = SQLAlchemyStore(f"sqlite:///{tmp_path}/store.db")
    assert store.failed_jobs.count() == 0
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("DROP TABLE laravel_failed_jobs")
        connection.execute("DROP TABLE laravel_alembic_version")
    connection.close()
    assert store.failed_jobs.count() == 0
    store.close()


def test_the_head_that_is_known_without_alembic_is_alembics():
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [migrations.HEAD]
    assert (None, *reversed([s.revision for s in scripts.walk_revisions() if not s.is_head])) == migrations.BEFORE


def test_an_up_to_date_store_does_not_load_alembic(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/store.db"
    store = SQLAlchemyStore(url)
    store.migrate()
    store.close()
    code = (
        "import sys; from celery_laravel.stores.sqlalchemy import SQLAlchemyStore;"
        f"assert SQLAlchemyStore({url!r}).failed_jobs.count() == 0; assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_prefix_that_is_too_long_for_a_table_is_refused():
    with pytest.raises(ConfigurationError, match=r"'laravel_prefix' = 'x{31}' has 31 characters.*at most 30"):
        SQLAlchemyStore("sqlite://", "x" * 31)
