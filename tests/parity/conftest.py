"""The stores on which scenarios are played, and a fixture that plays them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.parity.comparison import projections
from tests.parity.scenario import Scenario
from tests.parity.world import World

Play = Callable[[Scenario, str], dict[str, Any]]


@pytest.fixture
def play(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Play]:
    """Play a scenario with the library on a store, named by its kind, and return what is compared of it."""
    worlds: list[World] = []

    def run(scenario: Scenario, kind: str) -> dict[str, Any]:
        url, prefix = "memory://", "laravel"
        if kind == "sqlite":
            url = f"sqlite:///{tmp_path / 'store.db'}"
        elif kind == "redis":
            url, prefix = request.getfixturevalue("redis_url"), request.getfixturevalue("redis_prefix")
        worlds.append(World(scenario, monkeypatch, store=url, prefix=prefix))
        final = worlds[-1].play()
        return projections(worlds[-1].log, final)

    yield run
    for world in worlds:
        world.close()
