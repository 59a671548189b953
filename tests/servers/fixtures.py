"""Fixtures that give tests a server, and the closing report on which servers there were."""

from __future__ import annotations

import os
import re
import secrets
from collections import Counter
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.servers.contract import Server, ServerMissingError
from tests.servers.servers import KINDS, Servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPORT = pytest.StashKey[list[str]]()

# A skip that says so is about this installation, and no server would change it.
OF_THE_INSTALLATION = re.compile(r"needs (Celery|kombu|Python) ")


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """The servers of this run, for tests that choose one by its name; see `server_url`."""
    servers = Servers()
    yield servers
    request.config.stash[REPORT] = [_line(kind, servers) for kind in KINDS]
    servers.close()


@pytest.fixture(scope="session")
def server_url(servers: Servers) -> Callable[[str], str]:
    """A function from "redis", "postgresql", "mariadb" or "rabbitmq" to a URL; skips, or fails in CI, without one."""

    def url(kind: str) -> str:
        try:
            return servers.url(kind)
        except ServerMissingError as error:
            _do_without(kind, error)

    return url


@pytest.fixture
def private_server(servers: Servers) -> Iterator[Callable[[str], Server]]:
    """A function that starts a server of that kind for this test alone, which may stop it with `Server.close`."""
    started: list[Server] = []

    def start(kind: str) -> Server:
        try:
            started.append(servers.start_private(kind))
        except ServerMissingError as error:
            _do_without(kind, error)
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def redis_url(server_url: Callable[[str], str]) -> str:
    """A logical database of Redis that is this run's alone and flushed at its end, for stores, brokers and results."""
    return server_url("redis")


@pytest.fixture
def redis_prefix() -> str:
    """A prefix for keys that no other test has."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def postgresql_url(server_url: Callable[[str], str]) -> str:
    """A database of PostgreSQL that is this run's alone; the tests of a run share it."""
    return server_url("postgresql")


@pytest.fixture(scope="session")
def mariadb_url(server_url: Callable[[str], str]) -> str:
    """A database of MariaDB or MySQL that is this run's alone; the tests of a run share it."""
    return server_url("mariadb")


@pytest.fixture(scope="session")
def rabbitmq_url(server_url: Callable[[str], str]) -> str:
    """A virtual host of RabbitMQ that is this run's alone; the tests of a run share it."""
    return server_url("rabbitmq")


def _do_without(kind: str, error: ServerMissingError) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, so {kind} has to be there: {error}")
    pytest.skip(f"no {kind}: {error}")


def _line(kind: str, servers: Servers) -> str:
    found = servers.found().get(kind)
    if found is None:
        return f"{kind}: not asked for"
    if isinstance(found, ServerMissingError):
        return f"{kind}: missing; {_first_line(str(found))}"
    return f"{kind}: {found}"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _skips(reporter: pytest.TerminalReporter) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[_first_line(reason.removeprefix("Skipped: "))] += 1
    return reasons


def _inexcusable(reporter: pytest.TerminalReporter) -> Counter[str]:
    """What was skipped although CI is set, where nothing may be."""
    if not os.environ.get("CI"):
        return Counter()
    return Counter({reason: n for reason, n in _skips(reporter).items() if not OF_THE_INSTALLATION.search(reason)})


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and _inexcusable(reporter) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(REPORT, [])
    skips, inexcusable = _skips(terminalreporter), _inexcusable(terminalreporter)
    if lines or skips:
        terminalreporter.section("servers and skips")
    for line in lines:
        terminalreporter.line(line)
    for reason, count in skips.most_common():
        terminalreporter.line(f"skipped {count}: {reason}")
    if inexcusable:
        terminalreporter.line(f"CI is set, and {inexcusable.total()} skipped tests make the run fail.", red=True)
