"""Real workers whose SQLite file is in a bad way."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from celery_laravel.testing.processes import ProcessFailedError
from tests.transport.conftest import APP

if TYPE_CHECKING:
    from pathlib import Path

    from celery import Celery

    from tests.transport.conftest import Record, StartWorker


@pytest.fixture
def broker_url(tmp_path: Path) -> str:
    return f"database+sqlite:///{tmp_path / 'broker.db'}"


def test_a_worker_waits_out_a_database_that_is_not_usable_for_a_while(
    app: Celery, worker: StartWorker, record: Record, tmp_path: Path
) -> None:
    with worker(options={"busy_timeout": 0.2}) as running:
        app.send_task(f"{APP}.note", ("before",))
        record.wait_for(f"before {running.name}")
        with closing(sqlite3.connect(tmp_path / "broker.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            # Its heartbeats are messages too.
            running.wait_for_log("busy_timeout", timeout=60)
            other.execute("COMMIT")
        app.send_task(f"{APP}.note", ("after",))
        record.wait_for(f"after {running.name}")


def test_an_unusable_database_ends_the_worker_with_the_reason(tmp_path: Path, worker: StartWorker) -> None:
    (tmp_path / "broker.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ProcessFailedError, match="not a database"), worker():
        pass
