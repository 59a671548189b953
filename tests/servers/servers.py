"""The servers of one test run: each is looked for when it is first asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.servers.contract import Server, ServerMissingError
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.sql import MariaDB, PostgreSQL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.servers.contract import ServerKind

KINDS: dict[str, ServerKind] = {kind.name: kind for kind in (Redis(), PostgreSQL(), MariaDB(), RabbitMQ())}


class Servers:
    """Finds, starts and remembers servers; `close` leaves things as they were found."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        self._env = env
        self._found: dict[str, Server | ServerMissingError] = {}
        self._private: list[Server] = []

    def url(self, kind: str) -> str:
        """The URL of this run's area on a server of that kind.

        Raises:
            ServerMissingError: There is none, and none can be started. The second call does not look again.
        """
        if kind not in self._found:
            try:
                self._found[kind] = self._obtain(KINDS[kind])
            except ServerMissingError as error:
                self._found[kind] = error
        found = self._found[kind]
        if isinstance(found, ServerMissingError):
            raise found
        return found.url

    def start_private(self, kind: str) -> Server:
        """Start a server for one test alone, which may stop it; what the test leaves is closed at the end of the run.

        Raises:
            ServerMissingError: It is not installed, or did not come up.
        """
        server = _started(KINDS[kind])
        self._private.append(server)
        return server

    def found(self) -> Mapping[str, Server | ServerMissingError]:
        """What was found for each kind that was asked for: the server, or why there is none."""
        return self._found

    def close(self) -> None:
        """Remove the areas, and stop what this run started; an error of one does not keep the others."""
        servers = [*self._private, *(found for found in self._found.values() if isinstance(found, Server))]
        errors: list[Exception] = []
        for server in servers:
            try:
                server.close()
            except Exception as error:
                errors.append(error)
        self._private.clear()
        self._found.clear()
        if errors:
            msg = "Something stayed behind: " + "; ".join(map(repr, errors))
            raise RuntimeError(msg) from errors[0]

    def _obtain(self, kind: ServerKind) -> Server:
        named = self._env.get(kind.variable)
        if named == "":
            msg = f"{kind.variable} is empty, which asks for none"
            raise ServerMissingError(msg)
        if named == "start":
            return _with_area(kind, _started(kind))
        if named is not None:
            return _with_area(kind, _running(kind, named))
        ways: list[Callable[[], Server]] = [lambda url=url: _running(kind, url) for url in kind.usual]  # type: ignore[misc]
        reasons = []
        for way in [*ways, lambda: _started(kind)]:
            try:
                return _with_area(kind, way())
            except ServerMissingError as error:
                reasons.append(str(error))
        msg = f"{'; '.join(reasons)}. Install {kind.package}, or name a server in {kind.variable}."
        raise ServerMissingError(msg)


def _running(kind: ServerKind, url: str) -> Server:
    kind.probe(url)
    return Server(kind.name, url, "used")


def _started(kind: ServerKind) -> Server:
    server = Server(kind.name, "", "started")
    try:
        server.url = kind.start(server.closing)
    except BaseException:
        server.close()
        raise
    return server


def _with_area(kind: ServerKind, server: Server) -> Server:
    try:
        server.url = kind.open_area(server.url, server)
    except BaseException:
        server.close()
        raise
    return server
