"""Brokers that run as processes of this machine, each on a port and with a folder of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery_laravel.testing.processes import ManagedProcess, find_program, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


FORGETFUL = ("--save", "", "--appendonly", "no")


def redis_server(folder: Path, port: int, options: Sequence[str] = FORGETFUL) -> ManagedProcess:
    """A Redis server that keeps nothing unless ``options`` say so; it is not started yet.

    Raises:
        FileNotFoundError: It is not installed.
    """
    binary = find_program("redis-server")
    place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    return ManagedProcess([binary, *options, *place], log=folder / "log")


def rabbitmq_server(folder: Path, port: int) -> tuple[ManagedProcess, ManagedProcess]:
    """Erlang's port mapper and a RabbitMQ server, to be started in this order, and killed rather than stopped.

    The port mapper is one for this server alone: the one that the server would
    start by itself stays behind when the server has gone.

    Raises:
        FileNotFoundError: RabbitMQ is not installed.
    """
    # not Debian's wrapper in /usr/sbin: it changes to the user rabbitmq, who could not read the folder
    server = find_program("rabbitmq-server", folders=["/usr/lib/rabbitmq/bin"])
    mapper = find_program("epmd", folders=["/usr/lib/erlang/erts-*/bin"])
    env = _rabbitmq_environment(folder, port)
    return (
        ManagedProcess([mapper, "-port", env["ERL_EPMD_PORT"]], log=folder / "epmd.log", env=env),
        ManagedProcess([server], log=folder / "log", env=env, cwd=folder),
    )


def _rabbitmq_environment(folder: Path, port: int) -> dict[str, str]:
    nothing, settings = folder / "empty", folder / "rabbitmq.conf"
    nothing.write_text("")
    settings.write_text(f"listeners.tcp.default = 127.0.0.1:{port}\n")
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),  # for a cookie of its own
        "LANG": "C.UTF-8",
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"celery-laravel-{port}@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "logs"),
        "RABBITMQ_LOGS": "-",  # on the terminal, which is the process's log
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        # all three, so that nothing of the machine's own server is read
        "RABBITMQ_CONFIG_FILE": str(settings),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(nothing),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        # two schedulers are plenty, and leave the machine to the tests
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2",
    }
