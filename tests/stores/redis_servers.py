"""Redis servers of a test's own, to be stopped, paused and flushed, and clusters of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from celery_laravel.testing.processes import ManagedProcess, find_program, free_port, wait_until


class OwnServer:
    """A server on a port of its own, without persistence."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or _free_port(for_cluster="--cluster-enabled" in options)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        folder.mkdir(parents=True, exist_ok=True)
        command = [redis_server(), *options, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        if "--sentinel" not in options:
            command += ["--save", "", "--appendonly", "no"]
        self.process = ManagedProcess(command, log=folder / "log")

    def client(self) -> Any:
        # Not by the URL: redis-py 4 then leaves the connection open when the client is closed.
        return Redis(host="127.0.0.1", port=self.port, decode_responses=True)

    def start(self) -> None:
        self.process.start()
        with self.client() as client:
            wait_until(lambda: _answers(client), message=f"Redis on port {self.port}", interval=0.02)

    def stop(self) -> None:
        self.process.stop()


def _free_port(*, for_cluster: bool) -> int:
    """A free port; a node of a cluster listens 10,000 ports higher too, which must be a port as well."""
    highest = 65535 - 10000 if for_cluster else 65535
    return next(port for port in iter(free_port, None) if port <= highest)


@contextmanager
def own_server(folder: Path, *options: str) -> Iterator[OwnServer]:
    server = OwnServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def own_cluster(folder: Path) -> Iterator[list[OwnServer]]:
    """Three masters that share the slots, and no replicas."""
    with ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        nodes = [stack.enter_context(own_server(folder / str(number), *options)) for number in range(3)]
        clients = [stack.enter_context(node.client()) for node in nodes]
        bounds = [0, 5461, 10923, 16384]
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER", "ADDSLOTS", *range(bounds[number], bounds[number + 1]))
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        for client in clients:
            wait_until(lambda client=client: _is_complete(client), message="the cluster", interval=0.05)  # type: ignore[misc]
        yield nodes


@contextmanager
def own_tls_server(folder: Path) -> Iterator[tuple[int, Path]]:
    """A server that speaks TLS too: that port, and the certificate to trust."""
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-keyout", str(key), "-out", str(certificate), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([find_program("openssl"), *command.split(), *files], check=True, capture_output=True)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with own_server(folder, *tls, "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"):
        yield port, certificate


@contextmanager
def own_sentinel(folder: Path) -> Iterator[tuple[OwnServer, OwnServer, OwnServer]]:
    """A master called ``mymaster``, a replica of it, and a sentinel that lets the replica take over in moments."""
    with own_server(folder / "master") as master:
        replica_of = ("--replicaof", "127.0.0.1", str(master.port))
        with own_server(folder / "replica", *replica_of) as replica, replica.client() as copy:
            wait_until(lambda: copy.info("replication")["master_link_status"] == "up")
            config = folder / "sentinel.conf"
            config.write_text(
                f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
                "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 2000\n"
            )
            with own_server(folder / "sentinel", str(config), "--sentinel") as sentinel:
                with sentinel.client() as watch:
                    wait_until(lambda: watch.sentinel_master("mymaster")["num-slaves"] == 1)
                yield master, replica, sentinel


def redis_server() -> str:
    try:
        return find_program("redis-server")
    except FileNotFoundError as error:
        pytest.skip(f"no redis: {error}")


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def _is_complete(client: Any) -> bool:
    state = client.execute_command("CLUSTER", "INFO")
    text = state if isinstance(state, str) else str(state)
    return "cluster_state:ok" in text.replace("': '", ":") and "cluster_known_nodes:3" in text.replace("': '", ":")
