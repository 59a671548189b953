"""The forms of URL that the Redis store takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_laravel.errors import ConfigurationError, StoreUnavailableError
from celery_laravel.settings import without_password
from celery_laravel.stores.factory import open_store
from celery_laravel.stores.redis import RedisStore
from celery_laravel.stores.redis.urls import connection_pool
from celery_laravel.testing.processes import wait_until
from tests.stores.redis_servers import OwnServer, own_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OwnServer]:
    with own_server(tmp_path / "redis", "--unixsocket", str(tmp_path / "redis" / "socket")) as server:
        yield server


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:s3cret@localhost/0", "redis://:***@localhost/0"),
        ("rediss://user:s3cret@localhost/0", "rediss://user:***@localhost/0"),
        ("sentinel://:s3cret@a:1;sentinel://u:s3cret@b:2?x=1", "sentinel://:***@a:1;sentinel://u:***@b:2?x=1"),
        (
            "sentinel://a:1;b:2?master_name=m&sentinel_password=s3cret",
            "sentinel://a:1;b:2?master_name=m&sentinel_password=***",
        ),
        ("redis+cluster://u:s3cret@a:1,u:s3cret@b:2", "redis+cluster://u:***@a:1,u:***@b:2"),
        ("redis://localhost/0?password=s3cret&db=1", "redis://localhost/0?password=***&db=1"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_url_gives_its_parts_to_the_connection() -> None:
    connection = connection_pool(
        "rediss://user:pass%20word@example:7/3?socket_timeout=1.5&ssl_cert_reqs=CERT_NONE"
    ).make_connection()
    assert (connection.host, connection.port, connection.db) == ("example", 7, 3)
    assert (connection.username, connection.password) == ("user", "pass word")
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (1.5, 2.0)
    assert type(connection).__name__ == "SSLConnection"


def test_a_socket_takes_its_database_and_credentials_from_the_url() -> None:
    connection = connection_pool("redis+socket://:pw@/run/redis.sock?virtual_host=4&socket_timeout=3").make_connection()
    assert (connection.path, connection.db, connection.password) == ("/run/redis.sock", 4, "pw")
    assert connection.socket_timeout == 3


@pytest.mark.parametrize(
    ("hosts", "database"),
    [
        ("sentinel://a:1", 0),
        ("sentinel://a:1/", 0),
        ("sentinel://a:1/3", 3),
        ("sentinel://a:1;b:2/1", 1),
        ("sentinel://a:1;sentinel://b:2/1", 1),
        ("sentinel://a:1/1;sentinel://b:2", 1),
        ("sentinel://a:1/1;sentinel://b:2/1", 1),
        ("sentinel://:s3cret@a:1;sentinel://:s3cret@b/1", 1),
    ],
)
def test_any_sentinel_of_a_url_may_name_the_database(hosts: str, database: int) -> None:
    pool = connection_pool(f"{hosts}?master_name=m")
    assert pool.connection_kwargs["db"] == database
    known = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [node["host"] for node in known] == ["a", "b"][: len(known)]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://localhost/0?visibility_timeout=5", "visibility_timeout"),
        ("redis://localhost:port/0", "port"),
        ("redis://localhost/0?socket_timeout=soon", "socket_timeout"),
        ("sentinel://localhost:26379", "master_name"),
        ("sentinel://localhost:26379?master_name=m&bogus=1", "bogus"),
        ("sentinel://a:1/1;b:2/2?master_name=m", "databases 1 and 2"),
        ("sentinel://a:1;b:2/one?master_name=m", "cannot be read"),
        ("redis+socket:///run/redis.sock?bogus=1", "bogus"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        open_store(url)


def test_a_cluster_with_an_unknown_option_says_why() -> None:
    with pytest.raises(ConfigurationError, match="bogus"):
        RedisStore("redis+cluster://127.0.0.1:1?bogus=1").ping()


@pytest.mark.usefixtures("impatient")
def test_a_cluster_that_is_gone_is_said_to_be_gone() -> None:
    with pytest.raises(StoreUnavailableError, match=r"redis\+cluster://u:\*\*\*@127.0.0.1:1"):
        RedisStore("redis+cluster://u:pw@127.0.0.1:1").ping()


@pytest.mark.redis
def test_a_server_answers_on_its_socket(server: OwnServer, tmp_path: Path) -> None:
    store = open_store(f"redis+socket://{tmp_path}/redis/socket?virtual_host=2")
    store.attempts.forget("job")
    store.ping()
    store.close()


@pytest.mark.redis
@pytest.mark.usefixtures("impatient")
def test_sentinels_name_the_master(server: OwnServer, tmp_path: Path) -> None:
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor mymaster 127.0.0.1 {server.port} 1\n")
    with own_server(tmp_path / "sentinel", str(config), "--sentinel") as sentinel:
        with sentinel.client() as client:
            wait_until(lambda: client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"))
        hosts = f"sentinel://127.0.0.1:1;sentinel://127.0.0.1:{sentinel.port}/0"
        store = open_store(f"{hosts}?master_name=mymaster&socket_timeout=2")
        store.ping()
        with server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        store.ping()
        store.close()
        unknown = open_store(f"{hosts}?master_name=other")
        with pytest.raises(StoreUnavailableError, match="other"):
            unknown.ping()
