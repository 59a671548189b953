"""The chaos suite's options, its stages, and the table that closes a run; `make chaos` runs it.

    make chaos ARGS="--runs 50 --seed 7 -k batch"

Each scenario is a test that takes ``entry`` (what its run found), ``rng`` (the
run's dice, from the seed and the test's name) and a stage. ``--runs`` repeats
each one; a run that fails is repeated alone by its test's name and the seed.
"""

from __future__ import annotations

import random
import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos import ledger
from tests.chaos.ledger import Entry
from tests.chaos.own_servers import OwnServer, own_server
from tests.chaos.stage import VISIBILITY, Stage
from tests.chaos.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED = pytest.StashKey[str]()
STAGES = pytest.StashKey[list[Stage]]()
"""The stages that a test made for itself alone."""

LOG_SHOWN = 8000
"""Characters of a worker's log in the report of a run that failed."""

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption("--runs", type=int, default=None, help="how often each scenario runs (short form: as it says)")
    group.addoption("--seed", default=None, help="what the dice are made from; printed at the end of every run")
    group.addoption("--results", type=Path, default=None, help="a file for what each run found, one JSON object a line")


def _option(config: pytest.Config, name: str) -> Any:
    return config.getoption(name, default=None)  # not there when pytest was started without this folder's name


def pytest_configure(config: pytest.Config) -> None:
    given = _option(config, "seed")
    if given is None and hasattr(config, "workerinput"):
        given = config.workerinput.get("chaos_seed")  # not there when pytest was started without this folder's name
    config.stash[SEED] = given or secrets.token_hex(4)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the seed to a process of pytest-xdist's."""
    node.workerinput["chaos_seed"] = node.config.stash[SEED]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "run" in metafunc.fixturenames:
        short = metafunc.definition.get_closest_marker("short")
        runs = _option(metafunc.config, "runs") or (1 if short is None else short.args[0])
        metafunc.parametrize("run", range(runs), ids=lambda number: f"run{number}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("chaos")


@pytest.fixture
def entry(request: pytest.FixtureRequest, run: int) -> Iterator[Entry]:
    """What this run finds; the test's marker ``promise`` says about what."""
    promise = request.node.get_closest_marker("promise").args[0]
    place = request.node.callspec.params.get("stage", "redis × redis")
    entry = Entry(promise, str(place), request.config.stash[SEED])
    yield entry
    request.node.user_properties.append((ledger.PROPERTY, entry.as_data()))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """The run's dice."""
    return random.Random(f"{request.config.stash[SEED]}:{request.node.name}")


MakeStage = Any


@pytest.fixture(scope="session")
def make_stage(server_url: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeStage]:
    """A function that makes a stage of "broker × store", each the name of a server, ``sqlite``, or a URL."""
    stages: list[Stage] = []

    def place_of(name: str, what: str) -> str:
        if name == "sqlite":
            folder = tmp_path_factory.mktemp("chaos")
            return f"database+sqlite:///{folder}/broker.db" if what == "broker" else f"sqlite:///{folder}/store.db"
        return name if "://" in name else server_url(name)

    def make(place: str, **conf: Any) -> Stage:
        broker, store = place.split(" × ")
        places = {
            "broker": place_of(broker, "broker"),
            "backend": server_url("redis"),
            "store": place_of(store, "store"),
            "record": server_url("redis"),
            "queue": f"chaos-{secrets.token_hex(4)}",
        }
        if broker == "sqlite":
            conf = {"broker_transport_options": {"visibility_timeout": VISIBILITY}, **conf}
        elif broker.startswith("amqp"):  # one that is stopped: what it has not confirmed it may lose
            conf = {"broker_transport_options": {"confirm_publish": True}, **conf}
        stage = Stage(places, conf)
        if hasattr(stage.store, "migrate"):
            stage.store.migrate()
        stages.append(stage)
        return stage

    yield make
    for stage in stages:
        stage.close()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], OwnServer]]:
    """A function from a kind to a server of this module's own."""
    servers: dict[str, OwnServer] = {}
    with ExitStack() as closing:

        def of(kind: str) -> OwnServer:
            if kind not in servers:
                servers[kind] = closing.enter_context(own_server(kind, tmp_path_factory.mktemp(kind)))
            return servers[kind]

        yield of


PLACES = [
    "redis × redis",
    pytest.param("rabbitmq × postgresql", marks=[pytest.mark.rabbitmq, pytest.mark.postgresql, pytest.mark.slow]),
    pytest.param("redis × sqlite", marks=pytest.mark.slow),
    pytest.param("redis × postgresql", marks=[pytest.mark.postgresql, pytest.mark.slow]),
    pytest.param("rabbitmq × redis", marks=[pytest.mark.rabbitmq, pytest.mark.slow]),
    pytest.param("sqlite × sqlite", marks=pytest.mark.slow),
]
"""Where the scenarios run that concern every broker and every store."""


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: place.replace(" × ", "-"))
def stage(request: pytest.FixtureRequest, make_stage: MakeStage) -> Stage:
    """A stage that the runs of a module share; a run starts the workers that it needs, and those that it killed."""
    return make_stage(request.param)  # type: ignore[no-any-return]


@pytest.fixture(params=["child", pytest.param("worker", marks=pytest.mark.slow)])
def sweep(request: pytest.FixtureRequest, stage: Stage, entry: Entry, rng: random.Random, run: int) -> Sweep:
    """A run on ``stage`` that is killed at one point: the process alone that comes to it, or all of its worker."""
    return Sweep(stage, entry, request.param, run, rng)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the ends of the workers' logs to the report of a run that failed."""
    if call.excinfo is not None:
        stages = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Stage)]
        for stage in [*stages, *item.stash.get(STAGES, [])]:
            for worker in stage.workers:
                item.add_report_section(call.when, "worker", worker.log_text()[-LOG_SHOWN:])
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        found: list[Any] = [value for name, value in report.user_properties if name == ledger.PROPERTY]
        _entries.extend(found)


_entries: list[dict[str, Any]] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not _entries:
        return
    terminalreporter.section("chaos")
    for line in ledger.table(_entries):
        terminalreporter.line(line)
    terminalreporter.line(f"seed: {config.stash[SEED]}")
    path = _option(config, "results")
    if path is not None:
        ledger.write(path, _entries)
