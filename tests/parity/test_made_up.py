"""What no trace shows: made-up scenarios, on which the library and the rules have to agree."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings

from tests.parity.comparison import projections
from tests.parity.differences import Here
from tests.parity.made_up import scenarios, scenarios_with_locks_and_limits
from tests.parity.scenario import Scenario
from tests.parity.world import CAPABILITIES, World

_quickly = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to make one smaller takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@_quickly
@given(scenarios())
def test_the_library_keeps_to_the_rules_whatever_jobs_do(scenario: Scenario) -> None:
    _compare(scenario)


@_quickly
@given(scenarios_with_locks_and_limits())
def test_locks_and_limits_keep_to_the_rules_whatever_jobs_do_and_whenever_workers_die(scenario: Scenario) -> None:
    _compare(scenario)


def _compare(scenario: Scenario) -> None:
    rules = Here(scenario)
    expected = rules.play()
    assume(not (scenario.needs | rules.asked_for) - CAPABILITIES)
    with pytest.MonkeyPatch.context() as patch:
        world = World(scenario, patch, store="memory://")
        try:
            final = world.play()
        finally:
            world.close()
    assert projections(world.log, final) == projections(rules.log, expected)
