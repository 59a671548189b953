"""Every recorded scenario, played by the model of Laravel and by this library."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from tests.parity.comparison import projections
from tests.parity.conftest import Play
from tests.parity.differences import Here
from tests.parity.laravel import Laravel
from tests.parity.scenario import TRACES, Scenario, Trace
from tests.parity.world import CAPABILITIES

IN_THE_MODEL = frozenset({"a chain's catch"})
"""What the models can play beyond plain jobs, chains and batches."""


@cache
def traces() -> tuple[Trace, ...]:
    return tuple(Trace.read(path) for path in sorted(TRACES.glob("*.json")))


def played(stage: Laravel) -> dict[str, Any]:
    final = stage.play()
    return projections(stage.log, final)


def moves_the_clock(scenario: Scenario) -> bool:
    """Whether time passes in it, which a server's clock would not follow."""
    stage = Here(scenario)
    stage.play()
    return stage.now > 0


def _case(trace: Trace, able: frozenset[str], *values: Any, marks: tuple[pytest.MarkDecorator, ...] = ()) -> Any:
    """A test's parameters; a scenario that needs more than there is counts as expected to fail, and is not run."""
    missing = ", ".join(sorted(trace.scenario.needs - able))
    if missing:
        marks = (*marks, pytest.mark.xfail(reason=f"{trace.scenario.name} needs {missing}", run=False))
    return pytest.param(trace, *values, id="-".join([trace.scenario.name, *values]), marks=marks)


def _models() -> list[Any]:
    return [_case(trace, IN_THE_MODEL) for trace in traces()]


def _worlds() -> list[Any]:
    cases = []
    for trace in traces():
        if trace.scenario.needs - CAPABILITIES:
            cases.append(_case(trace, CAPABILITIES, "memory"))
            continue
        cases += [_case(trace, CAPABILITIES, store) for store in ("memory", "sqlite")]
        if not moves_the_clock(trace.scenario):
            cases.append(_case(trace, CAPABILITIES, "redis", marks=(pytest.mark.redis,)))
    return cases


@pytest.mark.parametrize("trace", _models())
def test_the_model_of_laravel_does_what_was_recorded(trace: Trace) -> None:
    model = Laravel(trace.scenario)
    assert played(model) == projections(trace.events, trace.final)
    assert model.now == trace.final["t"]


@pytest.mark.parametrize(("trace", "store"), _worlds())
def test_the_library_does_what_laravel_does_save_for_the_differences(trace: Trace, store: str, play: Play) -> None:
    """The differences are rules of `differences.Here`; where none applies, this is the recorded trace."""
    assert play(trace.scenario, store) == played(Here(trace.scenario))
