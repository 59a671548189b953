from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.transport import TRANSPORT_ALIASES

from celery_laravel.errors import ConfigurationError
from celery_laravel.transport import register

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_names_the_transport_and_loads_nothing_for_it() -> None:
    printed = python(
        "import sys, celery_laravel; from kombu.transport import TRANSPORT_ALIASES;"
        "print(TRANSPORT_ALIASES['database'], 'sqlalchemy' in sys.modules)"
    )
    assert printed == "celery_laravel.transport.database.transport:Transport False"


def test_registering_twice_changes_nothing() -> None:
    before = dict(TRANSPORT_ALIASES)
    register()
    assert before == TRANSPORT_ALIASES


def test_a_missing_sqlalchemy_is_named_with_what_to_install() -> None:
    printed = python(
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from celery_laravel.transport import register; register()\n"
        "from kombu import Connection\n"
        "try: Connection('database+sqlite:///x.db').connect()\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    assert printed.startswith("MissingDependencyError")
    assert "'celery-laravel[sqlalchemy]'" in printed


def test_a_missing_client_of_redis_is_named_with_what_to_install() -> None:
    printed = python(
        "import sys; sys.modules['redis'] = sys.modules['packaging.version'] = None\n"
        "from celery import Celery; from celery_laravel import install\n"
        "app = install(Celery(broker='redis://:secret@127.0.0.1/0', set_as_current=False))\n"
        "try: app.connection_for_write()\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    assert printed.startswith("MissingDependencyError The broker redis://:***@127.0.0.1/0 needs the Redis client")
    assert "pip install 'celery-laravel[redis]'" in printed


def test_other_missing_modules_are_kombus_error() -> None:
    printed = python(
        "import sys; sys.modules['pymongo'] = None\n"
        "from celery import Celery; from celery_laravel import install\n"
        "app = install(Celery(broker='mongodb://127.0.0.1/x', set_as_current=False))\n"
        "try: app.connection_for_write()\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    assert printed.startswith("ModuleNotFoundError import of pymongo halted")


def test_an_absolute_path_is_that_file(tmp_path: Path) -> None:
    with Connection(f"database+sqlite:///{tmp_path}/queue.db") as connection:
        connection.connect()
        assert connection.as_uri() == f"database+sqlite:///{tmp_path}/queue.db"
    assert (tmp_path / "queue.db").is_file()


def test_a_relative_path_is_taken_from_the_directory_at_the_first_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Connection("database+sqlite:///queue.db") as connection:
        connection.connect()
    assert (tmp_path / "queue.db").is_file()


def test_an_apps_connections_lead_to_the_broker(broker_url: str) -> None:
    app = Celery(broker=broker_url, set_as_current=False)
    for connection in app.connection(), app.connection_for_write(), app.connection().clone():
        assert connection.as_uri() == broker_url
        connection.connect()
        connection.close()
    app.close()


def test_a_connection_survives_pickling(connect: Callable[..., Connection], broker_url: str) -> None:
    connection = connect(visibility_timeout=7)
    copy = pickle.loads(pickle.dumps(connection))
    assert copy.as_uri() == broker_url
    assert copy.transport.options.visibility_timeout == 7


def test_the_uri_hides_a_password() -> None:
    from celery_laravel.transport.database.transport import Transport

    transport = Transport.__new__(Transport)
    transport.url = "postgresql+psycopg://me:secret@localhost/jobs"
    assert transport.as_uri() == "database+postgresql+psycopg://me:**@localhost/jobs"
    assert transport.as_uri(include_password=True) == "database+postgresql+psycopg://me:secret@localhost/jobs"


def test_options_come_from_the_transport_options_and_the_url_which_wins(tmp_path: Path) -> None:
    connection = Connection(
        f"database+sqlite:///{tmp_path}/q.db?visibility_timeout=12.5&table_prefix=mine_",
        transport_options={"visibility_timeout": 60, "busy_timeout": 2, "max_retries": 3, "global_keyprefix": "other"},
    )
    options = connection.transport.options
    assert (options.visibility_timeout, options.busy_timeout, options.table_prefix) == (12.5, 2, "mine_")
    assert options.url == f"sqlite:///{tmp_path}/q.db"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("visibility_timeout", 0),
        ("visibility_timeout", "60"),
        ("visibility_timeout", True),
        ("polling_interval", -1),
        ("busy_timeout", float("inf")),
        ("queue_order_strategy", "random"),
        ("synchronous", "sometimes"),
        ("table_prefix", "drop table;"),
        ("table_prefix", 3),
    ],
)
def test_a_bad_option_is_refused_by_name_and_value(tmp_path: Path, name: str, value: Any) -> None:
    connection = Connection(f"database+sqlite:///{tmp_path}/q.db", transport_options={name: value})
    with pytest.raises(ConfigurationError) as caught:
        connection.connect()
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("database+sqlite://", "needs a file"),
        ("database+sqlite:///:memory:", "needs a file"),
        ("database+sqlite:///file:x?mode=memory&uri=true", "needs a file"),
        ("database+sqlite:///q.db?visibilty_timeout=3", "'visibilty_timeout'"),
        ("database+sqlite:///q.db?visibility_timeout=soon", "'soon'"),
        ("database+oracle://me:secret@host/db", "'oracle'"),
        ("database:///q.db", "database+sqlite:///"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_what_to_write(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Connection(url).connect()
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_of_several_urls_the_next_is_tried_when_one_does_not_work(tmp_path: Path) -> None:
    bad, good = (f"database+sqlite:///{tmp_path / name}" for name in ("missing/q.db", "q.db"))
    for urls in (f"{bad};{good}", [bad, good]):
        with Connection(urls) as connection:
            connection.ensure_connection(max_retries=2, interval_start=0, timeout=10)
            assert connection.as_uri() == good
            with connection.clone() as clone:
                clone.ensure_connection(max_retries=2, interval_start=0, timeout=10)
                clone.SimpleQueue("jobs").put("hello")
            assert connection.SimpleQueue("jobs").get(timeout=5).payload == "hello"


def test_failing_over_to_another_kind_of_broker_leaves_no_trace_of_this_one(tmp_path: Path) -> None:
    with Connection(f"database+sqlite:///{tmp_path}/q.db;memory://") as connection:
        connection.connect()
        connection.maybe_switch_next()
        assert connection.as_uri().startswith("memory://")
        assert connection.clone().transport.driver_type == "memory"


def test_options_in_one_of_several_urls_are_refused_before_kombu_trips_over_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="broker_transport_options"):
        Connection(f"database+sqlite:///{tmp_path}/q.db;database+sqlite:///{tmp_path}/r.db?busy_timeout=1").connect()
