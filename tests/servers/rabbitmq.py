"""RabbitMQ: the area is a virtual host, made with rabbitmqctl."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from celery_laravel.testing.processes import ManagedProcess, free_port
from tests.servers.areas import is_abandoned, new_area
from tests.servers.contract import Server, ServerMissingError, data_folder, program, start_and_wait

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path


class RabbitMQ:
    name = "rabbitmq"
    variable = "TEST_RABBITMQ_URL"
    usual: tuple[str, ...] = ("amqp://guest:guest@127.0.0.1:5672//",)
    package = "rabbitmq-server"

    def probe(self, url: str) -> None:
        from kombu import Connection

        connection = Connection(url, connect_timeout=5)
        try:
            connection.connect()
        except connection.connection_errors as error:
            msg = f"no way in at {connection.as_uri()}: {error}"
            raise ServerMissingError(msg) from error
        finally:
            connection.release()

    def start(self, closing: ExitStack) -> str:
        # not Debian's wrapper in /usr/sbin: it changes to the user rabbitmq, who could not read our folder
        server = program("rabbitmq-server", folders=("/usr/lib/rabbitmq/bin",))
        epmd = program("epmd", folders=("/usr/lib/erlang/erts-*/bin",))
        folder = closing.enter_context(data_folder())
        port = free_port()
        env = _environment(folder, port)
        # Erlang's port mapper would stay behind if the server were left to start it.
        mapper = ManagedProcess([epmd, "-port", env["ERL_EPMD_PORT"]], log=folder / "epmd.log", env=env)
        closing.callback(mapper.stop)
        mapper.start()
        process = ManagedProcess([server], log=folder / "log", env=env, cwd=folder)
        closing.callback(process.kill)  # the script that starts Erlang does not hand signals on
        return start_and_wait(process, self, f"amqp://guest:guest@127.0.0.1:{port}//", timeout=90)

    def open_area(self, url: str, server: Server) -> str:
        if server.origin == "started":
            return url  # nobody else is there
        ctl = program("rabbitmqctl")
        area = new_area()
        try:
            for name in _run(ctl, "list_vhosts", "name", "--no-table-headers").split():
                if is_abandoned(name):
                    _run(ctl, "delete_vhost", name)
            _run(ctl, "add_vhost", area)
            server.closing.callback(_run, ctl, "delete_vhost", area)
            _run(ctl, "set_permissions", "-p", area, urlsplit(url).username or "guest", ".*", ".*", ".*")
        except subprocess.CalledProcessError as error:
            msg = f"rabbitmqctl may not make a virtual host on it: {error.stderr.strip()}"
            raise ServerMissingError(msg) from error
        return urlunsplit(urlsplit(url)._replace(path=f"/{area}"))


def _run(*command: str) -> str:
    return subprocess.run([*command, "--quiet"], check=True, capture_output=True, text=True, timeout=60).stdout


def _environment(folder: Path, port: int) -> dict[str, str]:
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
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        # all three, so that nothing of the machine's own server is read
        "RABBITMQ_CONFIG_FILE": str(settings),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(nothing),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        # two schedulers are plenty, and leave the machine to the tests
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2",
    }
