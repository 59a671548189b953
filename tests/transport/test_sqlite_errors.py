"""What can be wrong with the file, and what the user is told."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from celery_laravel.errors import CeleryLaravelError
from celery_laravel.testing.processes import wait_until
from celery_laravel.transport.database.errors import BrokerUnavailableError, BrokerUnusableError
from tests.transport.conftest import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


@pytest.fixture
def broker_url(path: Path) -> str:
    return f"database+sqlite:///{path}"


def publish(connection: Connection, body: Any = "x") -> None:
    connection.Producer().publish(body, routing_key="jobs")


def get(connection: Connection) -> Any:
    return connection.default_channel.basic_get("jobs")


def refusal(connection: Connection, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        publish(connection)
    assert isinstance(caught.value, CeleryLaravelError | OperationalError)
    return str(caught.value)


def test_a_locked_database_is_waited_for(connect: Callable[..., Connection], path: Path) -> None:
    connection = connect(busy_timeout=20)
    connection.default_channel.queue_declare("jobs")
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.2, other.execute, ("COMMIT",)).start()
        publish(connection)
    assert get(connection).payload == "x"


def test_a_database_locked_for_too_long_is_an_error_that_names_it_and_the_option(
    connect: Callable[..., Connection], path: Path
) -> None:
    connection = connect(busy_timeout=0.1)
    connection.default_channel.queue_declare("jobs")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        said = refusal(connection, BrokerUnavailableError)
        assert str(path) in said
        assert "locked" in said
        assert "busy_timeout" in said
        other.execute("ROLLBACK")
    publish(connection)
    assert get(connection).payload == "x"


def test_a_dispatch_tries_again_by_celerys_policy_and_ends_in_its_operational_error(
    broker_url: str, path: Path
) -> None:
    app = Celery(broker=broker_url, set_as_current=False, broker_transport_options={"busy_timeout": 0.05})
    app.conf.task_publish_retry_policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0}
    app.send_task("any")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="busy_timeout"):
            app.send_task("any")
        other.execute("ROLLBACK")
    app.send_task("any")
    app.close()


def test_an_acknowledgement_that_met_a_lock_is_made_up_for(connect: Callable[..., Connection], path: Path) -> None:
    connection = connect(busy_timeout=0.05, visibility_timeout=0.6)
    publish(connection)
    message = get(connection)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        message.ack()
        other.execute("ROLLBACK")
        wait_until(lambda: not other.execute("SELECT count(*) FROM celery_broker_messages").fetchone()[0])
    assert not connection.default_channel.qos.leases()


@pytest.mark.parametrize("requeue", [False, True])
def test_a_rejection_that_met_a_lock_is_made_up_for(
    connect: Callable[..., Connection], path: Path, requeue: bool
) -> None:
    """Celery logs that it failed and forgets the message, which its worker would hold for as long as it lives."""
    connection = connect(busy_timeout=0.05, visibility_timeout=0.6)
    publish(connection)
    message = get(connection)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        message.reject_log_error(logging.getLogger(__name__), connection.connection_errors, requeue=requeue)
        other.execute("ROLLBACK")
    assert connection.default_channel.qos.leases(), "still held, so that nobody else runs it meanwhile"
    wait_until(lambda: not connection.default_channel.qos.leases(), 5)
    again = get(connection)
    if requeue:
        assert again.headers["x-delivery-count"] == 1, "the delivery counts"
    else:
        assert again is None


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with Connection(f"database+sqlite:///{tmp_path}/no/such/q.db") as connection:
        said = refusal(connection, BrokerUnusableError)
    assert f"{tmp_path}/no/such" in said
    assert "Create it" in said


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with Connection(f"database+sqlite:///{tmp_path}") as connection:
        assert "is not a file" in refusal(connection, BrokerUnusableError)


def test_a_file_that_holds_something_else_is_left_alone(connect: Callable[..., Connection], path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 1000)
    said = refusal(connect(), BrokerUnusableError)
    assert str(path) in said
    assert "not a database" in said
    assert path.read_bytes().startswith(b"Dear diary")


def test_a_damaged_file_is_an_error_with_a_way_out(connect: Callable[..., Connection], path: Path) -> None:
    connection = connect()
    for number in range(300):
        publish(connection, str(number) * 200)
    connection.close()
    content = bytearray(path.read_bytes())
    content[4096:-4096] = os.urandom(len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(BrokerUnusableError, match=r"malformed.*recover"):
        get(connect())


def test_a_full_disk_is_an_error_worth_another_try_and_stores_nothing(
    connect: Callable[..., Connection], path: Path
) -> None:
    connection = connect()
    connection.default_channel.queue_declare("jobs")
    with connection.transport.database.session() as session:
        pages = session.exec_driver_sql("PRAGMA page_count").scalar_one()
        session.exec_driver_sql(f"PRAGMA max_page_count={pages + 3}")
    with pytest.raises(BrokerUnavailableError) as caught:
        connection.default_channel.messages.publish([row(number) for number in range(500)])
    assert "disk" in str(caught.value)
    assert str(path.parent) in str(caught.value)
    assert get(connection) is None
    publish(connection, "small")
    assert get(connection).payload == "small"


def row(number: int) -> Any:
    return {"queue": "jobs", "priority": 0, "due": 0.0, "payload": str(number) * 100}


AS_NOBODY = f"""
import os, sys
from kombu import Connection
import celery_laravel
with Connection(sys.argv[1] + ".other") as connection:
    connection.connect()  # imports what comes late
if os.getuid() == 0:
    os.setuid({NOBODY})
try:
    Connection(sys.argv[1]).Producer().publish("x", routing_key="jobs")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)
        Path(folder).chmod(0o777)


@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "said"),
    [(0o777, 0o444, "writable"), (0o555, 0o666, "writable"), (0o700, 0o666, "may not be read")],
)
def test_a_database_that_this_user_may_not_write_is_an_error_that_is_not_retried(
    open_folder: Path, folder_mode: int, file_mode: int, said: str
) -> None:
    if os.getuid() and folder_mode == 0o700:
        pytest.skip("only root can become another user")
    path = open_folder / "broker.db"
    url = f"database+sqlite:///{path}"
    with Connection(url) as connection:
        publish(connection)
    path.chmod(file_mode)
    open_folder.chmod(folder_mode)
    printed = subprocess.run([sys.executable, "-c", AS_NOBODY, url], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("BrokerUnusableError"), printed
    assert str(open_folder) in printed
    assert said in printed


def test_a_file_removed_or_replaced_under_way_is_noticed_and_made_anew(
    connect: Callable[..., Connection], path: Path, tmp_path: Path
) -> None:
    connection = connect()
    publish(connection)
    copy = tmp_path / "copy.db"
    connection.close()
    shutil.copy(path, copy)
    publish(connection)
    path.unlink()
    assert "removed" in refusal(connection, BrokerUnavailableError)
    connection.close()
    publish(connection, "new")
    copy.replace(path)
    assert "replaced" in refusal(connection, BrokerUnavailableError)
    connection.close()
    assert get(connection) is not None


def test_one_connection_that_comes_back_is_not_held_back_by_another_of_the_same_process(
    connect: Callable[..., Connection], path: Path
) -> None:
    first, second = connect(), connect()
    for connection in (first, second):
        publish(connection)
    path.unlink()
    refusal(first, BrokerUnavailableError)
    first.close()
    publish(first, "new")
    publish(second, "newer")
    assert [get(first).payload, get(second).payload] == ["new", "newer"]


def test_tables_of_a_newer_version_are_refused(connect: Callable[..., Connection], path: Path) -> None:
    connection = connect()
    publish(connection)
    connection.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("INSERT INTO celery_broker_schema VALUES (99)")
        other.commit()
    assert "version 99" in refusal(connection, BrokerUnusableError)


def test_two_brokers_share_a_file_under_different_prefixes(connect: Callable[..., Connection]) -> None:
    first, second = connect(), connect(table_prefix="second_")
    publish(first, 1)
    publish(second, 2)
    assert get(second).payload == 2
    assert get(first).payload == 1


def test_processes_that_begin_at_the_same_moment_agree_on_the_tables(broker_url: str) -> None:
    code = (
        "import sys, celery_laravel; from kombu import Connection\n"
        "sys.stdin.read(1)\n"
        "with Connection(sys.argv[1]) as c: c.Producer().publish('x', routing_key='jobs')\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, broker_url], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
    for child in children:
        assert child.communicate(timeout=60)[1] == b""
    with Connection(broker_url) as connection:
        assert rows_of(connection.default_channel, "jobs") == 4
