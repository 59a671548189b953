"""RabbitMQ: the area is a virtual host, made with rabbitmqctl, or the one that the URL names."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from celery_laravel.testing.local_servers import rabbitmq_server
from celery_laravel.testing.processes import free_port
from tests.servers.areas import is_abandoned, new_area
from tests.servers.contract import Server, ServerMissingError, data_folder, program, start_and_wait

if TYPE_CHECKING:
    from contextlib import ExitStack


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
        folder = closing.enter_context(data_folder())
        port = free_port()
        try:
            mapper, process = rabbitmq_server(folder, port)
        except FileNotFoundError as error:
            raise ServerMissingError(str(error)) from error
        closing.callback(mapper.stop)
        mapper.start()
        closing.callback(process.kill)  # the script that starts Erlang does not hand signals on
        return start_and_wait(process, self, f"amqp://guest:guest@127.0.0.1:{port}//", timeout=90)

    def open_area(self, url: str, server: Server) -> str:
        if server.origin == "started":
            return url  # nobody else is there
        if urlsplit(url).path not in {"", "/", "//", "/%2f", "/%2F"}:
            return url  # a virtual host that was made for this; who made it removes it
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
