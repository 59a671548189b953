"""The same behind Sentinel, on a cluster, over TLS and through a socket, and with a server that goes and comes back."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Consumer, Queue
from redis.exceptions import ConnectionError as RedisConnectionError

from celery_laravel.testing.processes import free_port, wait_until
from celery_laravel.transport.redis import reservation
from celery_laravel.transport.redis.connection import Connection
from celery_laravel.transport.redis.transport import SentinelTransport, Transport
from tests.stores.redis_servers import OwnServer, own_cluster, own_sentinel, own_server, own_tls_server
from tests.transport.redis_broker.conftest import age, get, send

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.matrix, pytest.mark.redis]


def check(connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take, be woken, hold, and give back."""
    monkeypatch.setattr(reservation, "LOOK_INTERVAL", 1e9)
    seen: list[Any] = []
    with Consumer(connection.default_channel, [Queue("jobs")], on_message=seen.append):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.2)
        send(other, "woken")
        connection.drain_events(timeout=20)
        assert seen[0].payload == "woken"
        assert connection.default_channel.reservation._can_be_woken
    connection.close()
    message = get(other)
    assert message.payload == "woken"
    message.ack()
    assert get(other) is None


def test_behind_sentinel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "sentinel.conf"
    with own_server(tmp_path / "master") as master:
        config.write_text(f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n")
        with own_server(tmp_path / "sentinel", str(config), "--sentinel") as sentinel:
            url = f"sentinel://127.0.0.1:{sentinel.port}"
            options = {"master_name": "mymaster"}
            with Connection(url, transport_options=options) as one, Connection(url, transport_options=options) as two:
                assert isinstance(one.transport, SentinelTransport)
                check(one, two, monkeypatch)


def test_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with own_tls_server(tmp_path / "server") as (port, certificate):
        options = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(certificate)}
        url = f"rediss://127.0.0.1:{port}/0"
        with Connection(url, ssl=options) as one, Connection(url, ssl=options) as two:
            assert isinstance(one.transport, Transport)
            check(one, two, monkeypatch)


def test_through_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "redis.sock"
    with own_server(tmp_path / "server", "--unixsocket", str(path)):
        url = f"redis+socket://{path}"
        with Connection(url) as one, Connection(url) as two:
            assert isinstance(one.transport, Transport)
            check(one, two, monkeypatch)


def test_on_a_cluster_with_a_hash_tag_in_the_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script may not touch keys of several nodes; with the tag, all of them are on one."""
    with own_cluster(tmp_path) as nodes:
        with nodes[0].client() as client:
            slot = client.execute_command("CLUSTER", "KEYSLOT", "{shop}:jobs")
        node = nodes[slot * 3 // 16384]
        options = {"global_keyprefix": "{shop}:", "visibility_timeout": 60}
        urls = [node.url, node.url]
        with (
            Connection(urls[0], transport_options=options) as one,
            Connection(urls[1], transport_options=options) as two,
        ):
            send(two, "abandoned", queue="other", priority=3)
            assert get(two, "other").payload == "abandoned"
            with node.client() as client:
                age(client, 61, prefix="{shop}:")
                assert two.default_channel.held.put_back_abandoned(60) == 1
                assert all(key.startswith("{shop}:") for key in client.scan_iter())
            check(one, two, monkeypatch)


def test_a_replica_that_takes_over_has_what_it_was_given(tmp_path: Path) -> None:
    """Sentinel names it when the master is gone: what was held there comes back, what waited is there."""
    with own_sentinel(tmp_path) as (master, replica, sentinel), replica.client() as copy:
        url, options = f"sentinel://127.0.0.1:{sentinel.port}", {"master_name": "mymaster"}
        with Connection(url, transport_options=options) as one:
            send(one, "held", "waiting")
            assert get(one).payload == "held"
            wait_until(lambda: (copy.llen("jobs"), copy.hlen("unacked")) == (1, 1))
            master.process.kill()
            wait_until(lambda: copy.info("replication")["role"] == "master")
            with pytest.raises(RedisConnectionError):
                one.default_channel.queue_purge("none")
        with Connection(url, transport_options=options) as two:
            two.ensure_connection(max_retries=50, interval_start=0.1, interval_step=0)
            message = get(two)
            assert message.payload == "waiting"
            message.ack()
            age(copy, 61)
            assert two.default_channel.held.put_back_abandoned(60) == 1
            assert get(two).payload == "held"


def test_a_server_that_comes_back_has_what_it_kept(tmp_path: Path) -> None:
    """It is killed while one message is held and one waits; both are there again, and the held one comes back."""
    folder = tmp_path / "server"
    options = ("--appendonly", "yes", "--appendfsync", "always")
    server = OwnServer(folder, port=free_port())
    server.process.command = [part for part in server.process.command if part not in {"--appendonly", "no"}]
    server.process.command += options
    try:
        server.start()
        first, second = Connection(server.url), Connection(server.url)
        send(first, "held", "waiting")
        message = get(first)
        server.process.kill()
        with pytest.raises(RedisConnectionError):
            get(first)
        message.ack()
        server.start()
        assert first.default_channel.qos.tags() == [message.delivery_tag]
        first.default_channel.qos.settle_owed()
        assert get(second).payload == "waiting"
        wait_until(lambda: get(second) is None)
        with server.client() as client:
            assert client.hlen("unacked") == 1, "the one that waited; the other's acknowledgement was made up for"
        first.close()
        second.close()
    finally:
        server.stop()
