"""The same behind Sentinel, over TLS and through a socket, and with a server that goes and comes back."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Consumer, Queue
from redis.exceptions import ConnectionError as RedisConnectionError

from celery_laravel.testing.processes import find_program, free_port, wait_until
from celery_laravel.transport.redis import reservation
from celery_laravel.transport.redis.connection import Connection
from celery_laravel.transport.redis.transport import SentinelTransport, Transport
from tests.stores.redis_servers import OwnServer, own_server
from tests.transport.redis_broker.conftest import get, send

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
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-keyout", str(key), "-out", str(certificate), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([find_program("openssl"), *command.split(), *files], check=True, capture_output=True)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with own_server(tmp_path / "server", *tls, "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"):
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
