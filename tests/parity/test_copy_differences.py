"""Difference 3, as a user would notice it: a second copy of a job that still runs.

In Laravel the copy runs beside it, once the first has been running for 90
seconds: the recorded traces have `then` called twice and steps queued twice.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.parity.conftest import Play
from tests.parity.scenes import (
    DRAIN,
    STORES,
    advance,
    batch,
    called,
    counts,
    dispatch,
    failures,
    handled,
    scenario,
    snapshot,
    waiting,
    work,
)

SLOW = {"tries": 2, "script": ["pause", "ok"]}
RESUME = {"op": "resume", "worker": "w1"}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("passes", [90, 900])
def test_a_copy_of_a_running_job_does_not_run(play: Play, store: str, passes: float) -> None:
    """Its worker lives, so that the attempt is held for however long it takes."""
    steps = [*dispatch("A"), work(worker="w1"), advance(passes), work(worker="w2"), RESUME, DRAIN]
    played = play(scenario({"A": SLOW}, *steps), store)
    assert played["handle"] == [("A", 1, "pause")]
    assert failures(played) == []
    assert waiting(played) == 0


def test_a_slow_member_counts_once(play: Play, store: str) -> None:
    jobs = {"A": SLOW, "B": ["ok"], "C": {"tries": 3, "script": ["release:200", "ok"]}}
    steps = [batch(["A", "B", "C"]), work(worker="w1"), advance(90), work(worker="w2"), RESUME, snapshot("A once")]
    played = play(scenario(jobs, *steps, DRAIN), store)
    assert handled(played) == ["A", "B", "C", "C"]
    assert (counts(played, "A once")["pending"], counts(played, "A once")["finished"]) == (1, False)
    assert (counts(played)["processed"], counts(played)["total"]) == (3, 3)
    assert called(played) == ["then", "finally"]


def test_the_step_after_a_slow_one_runs_once(play: Play, store: str) -> None:
    jobs: dict[str, Any] = {"A": SLOW, "B": ["ok"]}
    steps = [{"op": "chain", "jobs": ["A", "B"]}, work(worker="w1"), advance(90), work(worker="w2"), RESUME, DRAIN]
    played = play(scenario(jobs, *steps), store)
    assert handled(played) == ["A", "B"]


@pytest.mark.parametrize(
    ("end", "then"),
    [("release:5", [("A", 2, "ok")]), ("raise:E1", [("A", 2, "ok")]), ("fail:E1", []), ("delete", [])],
)
def test_a_copy_of_what_has_ended_meanwhile_is_dropped(play: Play, store: str, end: str, then: list[Any]) -> None:
    job = {"tries": 2, "script": [f"pause+{end}", "ok"]}
    steps = [*dispatch("A"), work(worker="w1"), advance(90), work(worker="w2"), RESUME, DRAIN]
    played = play(scenario({"A": job}, *steps), store)
    assert played["handle"] == [("A", 1, f"pause+{end}"), *then]
    assert waiting(played) == 0


def test_the_copy_of_a_job_whose_worker_dies_takes_over_and_used_up_nothing_before(play: Play, store: str) -> None:
    job = {"tries": 2, "script": ["advance:80+crash", "ok"]}
    steps = [*dispatch("A"), work(worker="w1"), advance(10), work(worker="w2"), snapshot("copy"), DRAIN]
    played = play(scenario({"A": job}, *steps), store)
    assert played["handle"] == [("A", 1, "advance:80+crash"), ("A", 2, "ok")]
    assert dict(played["snapshots"])["copy"]["queues"]["default"]["delayed"] == 1
    assert failures(played) == []
