"""What no trace shows: made-up scenarios, on which the library and the rules have to agree."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.parity.comparison import projections
from tests.parity.differences import Here
from tests.parity.made_up import scenarios
from tests.parity.scenario import Scenario
from tests.parity.world import World


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to make one smaller takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(scenarios())
def test_the_library_keeps_to_the_rules_whatever_jobs_do(scenario: Scenario) -> None:
    model = Here(scenario)
    expected = model.play()
    with pytest.MonkeyPatch.context() as patch:
        world = World(scenario, patch, store="memory://")
        try:
            final = world.play()
        finally:
            world.close()
    assert projections(world.log, final) == projections(model.log, expected)
