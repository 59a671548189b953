from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psutil
import pytest

from tests.servers import areas
from tests.servers.contract import ServerMissingError, program
from tests.servers.redis import CLAIM, at_database
from tests.servers.servers import KINDS, Servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.contract import Server

    Run = Callable[..., pytest.RunResult]

ROOT = Path(__file__).parents[2]


def descendants() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if is_running(child)}


def is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # ended since it was listed, as PostgreSQL's helpers do
        return False


def test_the_fixtures_lead_to_servers_that_answer(server_url: Callable[[str], str]) -> None:
    for kind in KINDS:
        KINDS[kind].probe(server_url(kind))


@pytest.fixture
def temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made in this test; other users can enter it, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["redis", "postgresql", "mariadb", "rabbitmq"])
def test_a_private_server_answers_and_leaves_nothing(
    kind: str, private_server: Callable[[str], Server], temporary_folder: Path
) -> None:
    before = descendants()

    server = private_server(kind)
    KINDS[kind].probe(server.url)
    assert descendants() - before
    server.close()

    with pytest.raises(ServerMissingError):
        KINDS[kind].probe(server.url)
    assert descendants() <= before
    assert list(temporary_folder.iterdir()) == []


def test_two_runs_have_areas_of_their_own(redis_url: str) -> None:
    import redis

    other = Servers({"TEST_REDIS_URL": at_database(redis_url, 0)})
    try:
        assert other.url("redis") != redis_url
    finally:
        url = other.url("redis")
        other.close()
    with redis.Redis.from_url(url) as client:
        assert client.dbsize() == 0


@pytest.mark.rabbitmq
def test_a_virtual_host_that_is_named_is_used_and_stays(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server elsewhere, on which nobody here may make one."""
    monkeypatch.setenv("PATH", "/nowhere")
    run = Servers({"TEST_RABBITMQ_URL": rabbitmq_url})
    assert run.url("rabbitmq") == rabbitmq_url
    run.close()
    KINDS["rabbitmq"].probe(rabbitmq_url)
    with pytest.raises(ServerMissingError, match="rabbitmqctl"):
        Servers({"TEST_RABBITMQ_URL": urlunsplit(urlsplit(rabbitmq_url)._replace(path="//"))}).url("rabbitmq")


def test_a_database_that_a_killed_run_left_is_taken_over(private_server: Callable[[str], Server]) -> None:
    import redis

    url = private_server("redis").url
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    claim = areas.new_area().replace(f"_{os.getpid()}_", f"_{dead.pid}_")
    with redis.Redis.from_url(at_database(url, 15)) as client:
        client.set(CLAIM, claim)
        client.set("left", "behind")

        run = Servers({"TEST_REDIS_URL": url})
        assert run.url("redis") == at_database(url, 15)
        assert client.get("left") is None
        run.close()
        assert client.dbsize() == 0


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_database_is_dropped_at_the_end(kind: str, server_url: Callable[[str], str]) -> None:
    run = Servers({KINDS[kind].variable: server_url(kind)})
    url = run.url(kind)
    KINDS[kind].probe(url)
    run.close()
    with pytest.raises(ServerMissingError):
        KINDS[kind].probe(url)


def test_an_area_of_a_living_process_or_another_machine_is_nobodys_to_remove() -> None:
    assert not areas.is_abandoned(areas.new_area())
    assert not areas.is_abandoned("celery_laravel_test_00000000_999999999_abcdef")
    assert not areas.is_abandoned("somebody_elses_database")


def test_a_program_is_missing_with_its_name() -> None:
    with pytest.raises(ServerMissingError, match="no-such-server is not installed"):
        program("no-such-server")


def test_an_empty_variable_asks_for_no_server() -> None:
    run = Servers({"TEST_REDIS_URL": ""})
    for _ in range(2):
        with pytest.raises(ServerMissingError, match="TEST_REDIS_URL is empty"):
            run.url("redis")


def test_a_named_server_that_does_not_answer_is_not_replaced() -> None:
    run = Servers({"TEST_REDIS_URL": "redis://127.0.0.1:1/0"})
    with pytest.raises(ServerMissingError, match=re.escape("no answer at redis://127.0.0.1:1/0")):
        run.url("redis")


class TestTheReport:
    """Runs of pytest inside pytest, without a Redis server."""

    @pytest.fixture
    def run(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
        pytester.makeconftest('pytest_plugins = ["tests.servers.fixtures"]')
        pytester.makepyfile(
            """
            import pytest

            def test_with(redis_url): ...

            @pytest.mark.skip(reason="not today")
            def test_lazy(): ...

            @pytest.mark.skip(reason="needs Celery 9")
            def test_of_the_future(): ...
            """
        )
        monkeypatch.setenv("TEST_REDIS_URL", "")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        return lambda *names: pytester.runpytest_subprocess("-p", "no:randomly", "-k", " or ".join(names))

    def test_a_missing_server_is_a_skip_at_the_desk(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        result = run("test_with", "test_lazy")
        result.assert_outcomes(skipped=2)
        assert result.ret == 0
        result.stdout.fnmatch_lines(
            ["redis: missing; TEST_REDIS_URL is empty*", "postgresql: not asked for", "skipped 1: no redis: *"]
        )

    def test_it_is_a_failure_in_the_pipeline(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        result = run("test_with")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*CI is set, so redis has to be there*"])

    def test_any_other_skip_fails_the_pipeline_too(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        result = run("test_lazy")
        assert result.ret == 1
        result.stdout.fnmatch_lines(["*1 skipped tests make the run fail*"])

    def test_but_not_one_that_names_a_version(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        assert run("test_of_the_future").ret == 0
