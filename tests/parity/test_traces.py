"""Every recorded scenario, played by the model of Laravel and by this library."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from tests.parity.comparison import of_a_server, projections
from tests.parity.conftest import Play
from tests.parity.differences import Here
from tests.parity.laravel import Laravel
from tests.parity.scenario import TRACES, Scenario, Trace
from tests.parity.world import CAPABILITIES


@cache
def traces() -> tuple[Trace, ...]:
    return tuple(Trace.read(path) for path in sorted(TRACES.glob("*.json")))


def played(stage: Laravel) -> dict[str, Any]:
    final = stage.play()
    return projections(stage.log, final)


def _missing(scenario: Scenario) -> str:
    """What the library does not have yet and the scenario needs."""
    return ", ".join(sorted((scenario.needs | _rules(scenario).asked_for) - CAPABILITIES))


@cache
def _rules(scenario: Scenario) -> Here:
    """The rules, having played a scenario."""
    rules = Here(scenario)
    rules.play()
    return rules


def _worlds() -> list[Any]:
    """Tests' parameters; a scenario that needs more than there is counts as expected to fail, and is not run.

    Not on Redis where time passes, which a server's clock would not follow.
    """
    cases = []
    for trace in traces():
        name, stores = trace.scenario.name, ["memory", "sqlite"]
        marks = []
        if missing := _missing(trace.scenario):
            marks.append(pytest.mark.xfail(reason=f"{name} needs {missing}", run=False))
        if _rules(trace.scenario).now == 0:
            stores.append("redis")
        cases += [
            pytest.param(trace, store, id=f"{name}-{store}", marks=(*marks, *_MARKS.get(store, ()))) for store in stores
        ]
    return cases


_MARKS = {"redis": (pytest.mark.redis,)}


@pytest.mark.parametrize("trace", traces(), ids=lambda trace: trace.scenario.name)
def test_the_model_of_laravel_does_what_was_recorded(trace: Trace) -> None:
    model = Laravel(trace.scenario)
    assert played(model) == projections(trace.events, trace.final)
    assert model.now == trace.final["t"]


@pytest.mark.parametrize(("trace", "store"), _worlds())
def test_the_library_does_what_laravel_does_save_for_the_differences(trace: Trace, store: str, play: Play) -> None:
    """The differences are rules of `differences.Here`; where none applies, this is the recorded trace."""
    seen, expected = play(trace.scenario, store), played(Here(trace.scenario))
    assert (of_a_server(seen, expected) if store == "redis" else seen) == expected
