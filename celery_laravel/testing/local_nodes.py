"""Nodes of pytest-celery that are processes of this machine, for where no Docker engine runs.

Name this module in the top-level ``conftest.py``. Tests written against
pytest-celery then run as they are, on servers that are installed:

    pytest_plugins = ["celery_laravel.testing.local_nodes"]

    def test_a_task_is_worked(celery_setup):
        assert add.s(2, 2).apply_async().get(timeout=10) == 4

With ``WITH_DOCKER=1`` in the environment nothing is overridden, and the same
tests run in pytest-celery's containers. A program that is missing skips the
test with the reason, and fails it where ``CI`` is set.

What differs from a container: the worker runs in this Python environment and
so with the Celery installed here, `get_running_processes_info` sees the whole
machine, and there is no network to cut.

Importing this module needs the extra ``testing``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pytest_celery import CeleryWorkerContainer, RabbitMQContainer, RedisContainer

from celery_laravel.testing.local_process import LocalProcess
from celery_laravel.testing.local_servers import rabbitmq_server, redis_server
from celery_laravel.testing.processes import ManagedProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LocalProcess", "LocalRabbitMQ", "LocalRedis", "LocalWorker"]

WITH_DOCKER = os.environ.get("WITH_DOCKER", "") not in {"", "0"}


class _LocalServer(LocalProcess):
    """A broker or result backend, which has an address."""

    def __init__(self, port: int, process: ManagedProcess, folder: Path, **options: Any) -> None:
        super().__init__(process, folder, **options)
        self._port = port

    @property
    def hostname(self) -> str:
        """Where the server listens."""
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """The port on this machine; it stays the same over restarts."""
        return self._port

    @property
    def host_url(self) -> str:
        """The URL for Celery, in this process."""
        node: Any = self
        return f"{node.prefix()}{self.hostname}:{self.port}/{node.vhost}"

    @property
    def url(self) -> str:
        """The URL for Celery, in a worker: the same."""
        return self.host_url


class LocalRedis(_LocalServer, RedisContainer):
    """A Redis server of its own, as broker or result backend."""


class LocalRabbitMQ(_LocalServer, RabbitMQContainer):
    """A RabbitMQ server of its own; it takes some five seconds to start."""


class LocalWorker(LocalProcess, CeleryWorkerContainer):
    """A ``celery worker``, whose folder has the app and the tasks that pytest-celery puts together."""


# -- fixtures --------------------------------------------------------------------------------------
# With Docker they stay plain functions, which pytest does not see: pytest-celery's own are in force.
def _fixture(function: Callable[..., Any]) -> Any:
    return function if WITH_DOCKER else pytest.fixture(function)


@contextmanager
def _node(build: Callable[[Path], LocalProcess]) -> Iterator[LocalProcess]:
    with ExitStack() as closing:
        folder = Path(tempfile.mkdtemp(prefix="celery-laravel-node-"))
        closing.callback(shutil.rmtree, folder)
        try:
            node = build(folder)
        except FileNotFoundError as error:
            if os.environ.get("CI"):
                pytest.fail(f"CI is set, so this has to be there: {error}")
            pytest.skip(str(error))
        closing.callback(node.discard)
        node.start()
        node.ready()
        yield node


def _local(container: type, local: type) -> type:
    """The container class that the test chose, made local."""
    if issubclass(local, container):
        return local
    mixin = LocalProcess if issubclass(local, CeleryWorkerContainer) else _LocalServer
    return type(f"Local{container.__name__}", (mixin, container), {})


def _redis(container: type, command: list[str]) -> Callable[[Path], LocalProcess]:
    def build(folder: Path) -> LocalProcess:
        port = free_port()
        node: LocalProcess = _local(container, LocalRedis)(port, redis_server(folder, port, command[1:]), folder)
        return node

    return build


@_fixture
def default_redis_broker(
    default_redis_broker_cls: type, default_redis_broker_command: list[str]
) -> Iterator[LocalProcess]:
    """The broker node's server, where a test asks for Redis."""
    with _node(_redis(default_redis_broker_cls, default_redis_broker_command)) as node:
        yield node


@_fixture
def default_redis_backend(
    default_redis_backend_cls: type, default_redis_backend_command: list[str]
) -> Iterator[LocalProcess]:
    """The result backend node's server, where a test asks for Redis."""
    with _node(_redis(default_redis_backend_cls, default_redis_backend_command)) as node:
        yield node


@_fixture
def default_rabbitmq_broker(default_rabbitmq_broker_cls: type) -> Iterator[LocalProcess]:
    """The broker node's server, where a test asks for RabbitMQ."""

    def build(folder: Path) -> LocalProcess:
        port = free_port()
        mapper, process = rabbitmq_server(folder, port)
        make = _local(default_rabbitmq_broker_cls, LocalRabbitMQ)
        node: LocalProcess = make(port, process, folder, helpers=(mapper,))
        return node

    with _node(build) as node:
        yield node


@_fixture
def default_worker_container(
    default_worker_container_cls: type,
    default_worker_command: list[str],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
) -> Iterator[LocalProcess]:
    """The worker node's process."""

    def build(folder: Path) -> LocalProcess:
        for name, content in default_worker_initial_content.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        env = {**_outside(), **default_worker_env, "PYTHONPATH": str(folder)}
        process = ManagedProcess([], log=folder / "log", cwd=folder, env=env)
        node: LocalProcess = _local(default_worker_container_cls, LocalWorker)(process, folder)
        # what a container's own name does for its worker
        process.command = [part.replace("%h", node.id[:12]) for part in default_worker_command]
        return node

    with _node(build) as node:
        yield node


def _outside() -> dict[str, str]:
    """What a node sees of the environment of the tests: as little as a container would, and its programs."""
    kept = {
        name: os.environ[name]
        for name in ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV")
        if name in os.environ
    }
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
