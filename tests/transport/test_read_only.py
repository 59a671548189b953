"""A broker that takes no writes for a while, as when another server has become the master: workers go on after it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError

from celery_laravel import install
from celery_laravel.testing.processes import wait_until
from celery_laravel.transport.redis.connection import Connection
from tests.stores.redis_servers import OwnServer, own_server
from tests.transport.conftest import APP, Contents, postgresql, start_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.worker import RunningWorker
    from tests.transport.conftest import Record

QUICK = ("--without-mingle", "--without-gossip")


def send(app: Celery, task: str, name: object) -> None:
    app.send_task(f"{APP}.{task}", (name,))


def check(running: RunningWorker, app: Celery, record: Record, *, server: Any, left: Callable[[], int]) -> None:
    """In the context ``server`` it is read-only: the worker tries again at ever longer intervals, and loses nothing."""
    send(app, "note_late", "first")
    record.wait_for(f"first {running.name}")
    send(app, "block", "held")
    record.wait_for("start held 0 False")
    with server:
        began = time.monotonic()
        wait_until(lambda: running.log_text().count("Trying again in") >= 2, 60, message="a second trial")
        assert time.monotonic() - began >= 2, "the first comes after two seconds"
        assert running.log_text().count("Connection to broker lost") == 1
        record.let_go("held")
        record.wait_for("end held")
    send(app, "note_late", "after")
    record.wait_for(f"after {running.name}", timeout=60)
    wait_until(lambda: not left(), 60, message="the end of all messages")
    assert running.is_running
    assert record.lines().count("start held 0 False") == 1


@pytest.mark.redis
class TestRedis:
    @pytest.fixture
    def own_redis(self, tmp_path: Path) -> Iterator[OwnServer]:
        with own_server(tmp_path / "redis") as server:
            yield server

    def test_a_worker_goes_on_once_its_server_is_the_master_again(self, own_redis: OwnServer, record: Record) -> None:
        app = install(Celery("client", broker=own_redis.url, set_as_current=False))

        @contextmanager
        def read_only() -> Iterator[None]:
            before = client.info("stats")["total_connections_received"]
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            yield
            assert client.info("stats")["total_connections_received"] - before < 40
            assert client.info("errorstats")["errorstat_READONLY"]["count"] < 100
            client.execute_command("REPLICAOF", "NO", "ONE")

        options = {"visibility_timeout": 5}
        with (
            own_redis.client() as client,
            start_worker(own_redis.url, record, *QUICK, transport="safe", acks_late=True, options=options) as running,
        ):
            left = lambda: int(client.hlen("unacked") + client.llen("celery"))  # noqa: E731
            check(running, app, record, server=read_only(), left=left)
        app.close()

    def test_a_worker_that_connects_again_while_its_server_is_full_goes_on_once_it_is_not(
        self, own_redis: OwnServer, record: Record
    ) -> None:
        app = install(Celery("client", broker=own_redis.url, set_as_current=False))
        with own_redis.client() as client, start_worker(own_redis.url, record, *QUICK, transport="safe") as running:
            send(app, "note", "first")
            record.wait_for(f"first {running.name}")
            client.config_set("maxmemory", "1")
            client.client_kill_filter(_type="normal", skipme=True)
            wait_until(lambda: running.log_text().count("Connection to broker lost") >= 3)
            client.config_set("maxmemory", "0")
            send(app, "note", "after")
            record.wait_for(f"after {running.name}", timeout=60)
            assert running.is_running
        app.close()

    def test_a_replica_is_not_connected_to(self, own_redis: OwnServer) -> None:
        """Nor is one that has become one published to, without an error."""
        with own_redis.client() as client, Connection(own_redis.url) as early, Connection(own_redis.url) as late:
            producer = early.Producer()
            producer.publish("x", routing_key="jobs")
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(RedisConnectionError, match="replica"):
                late.connect()
            with pytest.raises(OperationalError, match="replica"):
                producer.publish("y", routing_key="jobs", retry=True, retry_policy={"max_retries": 1})
            client.execute_command("REPLICAOF", "NO", "ONE")
            early.Producer().publish("z", routing_key="jobs", retry=True)
            assert client.llen("jobs") == 2


@pytest.mark.postgresql
class TestPostgreSQL:
    @pytest.fixture
    def broker_url(self, request: pytest.FixtureRequest) -> Iterator[str]:
        with postgresql(request) as url:
            yield url

    def test_a_worker_goes_on_once_its_server_takes_writes_again(
        self, app: Celery, broker_url: str, record: Record, contents: Contents
    ) -> None:
        engine = sa.create_engine(broker_url.removeprefix("database+"), isolation_level="AUTOCOMMIT")

        @contextmanager
        def read_only() -> Iterator[None]:
            with engine.connect() as admin:
                name = admin.exec_driver_sql("SELECT current_database()").scalar_one()
                admin.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
                try:
                    admin.exec_driver_sql(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                    yield
                finally:
                    admin.exec_driver_sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")

        options = {"visibility_timeout": 5}
        with start_worker(broker_url, record, *QUICK, acks_late=True, options=options) as running:
            check(running, app, record, server=read_only(), left=contents.left)
        engine.dispose()
