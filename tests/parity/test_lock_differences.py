"""The deliberate differences from Laravel in locks, one by one, as a user would notice them."""

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
    dispatch,
    failures,
    handled,
    held,
    scenario,
    snapshot,
    work,
)

OVERLAP = {"type": "without_overlapping", "key": "k"}
BUSY = {"op": "acquire_overlap", "job": "A"}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def unique(script: list[str], until: str = "done", **options: Any) -> dict[str, Any]:
    """A job of the one class "One" whose instances are all the same."""
    uniqueness = {"id": "x", "until_processing": until == "processing"}
    return {"class": "One", "unique": uniqueness, "script": script, **options}


# -- 11: locks have owners, and every step of a chain is checked


@pytest.mark.parametrize(
    ("chain", "ran"), [(["U2", "A", "B"], "AB"), (["A", "U2", "B"], "AB"), (["A", "B", "U2"], "AB"), (["U2"], "")]
)
def test_a_step_that_a_twin_keeps_out_is_skipped_and_the_chain_goes_on(
    chain: list[str], ran: str, play: Play, store: str
) -> None:
    jobs = {"U1": unique(["ok"]), "U2": unique(["ok"]), "A": ["ok"], "B": ["ok"]}
    steps = [*dispatch("U1", delay=100), {"op": "chain", "jobs": chain}, work(), snapshot("done")]
    played = play(scenario(jobs, *steps), store)
    assert handled(played) == list(ran)
    assert played["dispatch_ignored"] == [("U2",)]
    assert held(played, "done") == ["unique|One|x"]


def test_two_steps_in_a_row_that_a_twin_keeps_out_are_both_skipped(play: Play, store: str) -> None:
    jobs = {"U1": unique(["ok"]), "U2": unique(["ok"]), "U3": unique(["ok"]), "A": ["ok"]}
    steps = [*dispatch("U1", delay=100), {"op": "chain", "jobs": ["U2", "U3", "A"]}, work()]
    played = play(scenario(jobs, *steps), store)
    assert handled(played) == ["A"]
    assert played["dispatch_ignored"] == [("U2",), ("U3",)]


def test_members_of_a_batch_are_not_checked_and_free_nobodys_lock(play: Play, store: str) -> None:
    jobs = {"U1": unique(["ok"]), "U2": unique(["ok"]), "A": ["ok"]}
    played = play(scenario(jobs, *dispatch("U1", delay=100), batch(["U2", ["A", "U2"]]), work()), store)
    assert handled(played) == ["U2", "A", "U2"]
    assert called(played) == ["then", "finally"]
    assert held(played) == ["unique|One|x"]


def test_a_job_that_runs_in_its_caller_neither_takes_nor_frees_a_lock(play: Play, store: str) -> None:
    jobs = {"U1": unique(["ok"]), "U2": unique(["ok"])}
    played = play(scenario(jobs, *dispatch("U1", delay=100), {"op": "dispatch_sync", "job": "U2"}), store)
    assert handled(played) == ["U2"]
    assert held(played) == ["unique|One|x"]


# -- 12: locks of running jobs are leases


@pytest.mark.parametrize(("seconds", "starts"), [(59, ["A"]), (60, ["A", "B"])])
def test_an_overlap_lock_is_free_60_seconds_after_its_holder_crashed(
    seconds: int, starts: list[str], play: Play, store: str
) -> None:
    jobs = {
        "A": {"class": "One", "tries": 2, "middleware": [OVERLAP], "script": ["advance:100+crash", "ok"]},
        "B": {"class": "One", "tries": 1, "middleware": [OVERLAP], "script": ["ok"]},
    }
    steps = [*dispatch("A", queue="slow"), work(queue="slow"), advance(seconds), *dispatch("B"), work(max_jobs=1)]
    assert handled(play(scenario(jobs, *steps), store)) == starts


def test_an_overlap_lock_is_never_free_under_a_holder_that_lives(play: Play, store: str) -> None:
    jobs = {
        "A": {"class": "One", "tries": 9, "middleware": [OVERLAP], "script": ["pause"]},
        "B": {"class": "One", "tries": 9, "middleware": [OVERLAP], "script": ["ok"]},
    }
    steps = [
        *(*dispatch("A", queue="slow"), work(queue="slow", worker="w1"), advance(1000)),
        *(*dispatch("B"), work(max_jobs=3), {"op": "resume", "worker": "w1"}, work(max_jobs=1)),
    ]
    played = play(scenario(jobs, *steps), store)
    assert played["handle"] == [("A", 1.0, "pause"), ("B", 4.0, "ok")]
    assert held(played) == []


def test_a_lock_with_an_expiry_ends_under_its_holder(play: Play, store: str) -> None:
    layer = {**OVERLAP, "expire_after": 30}
    jobs = {label: {"class": "One", "middleware": [layer], "script": ["pause", "ok"]} for label in "AB"}
    steps = [*dispatch("A"), work(worker="w1"), advance(30), snapshot("expired"), *dispatch("B"), work(worker="w2")]
    played = play(scenario(jobs, *steps, {"op": "resume", "worker": "w1"}), store)
    assert held(played, "expired") == []
    assert handled(played) == ["A", "B"]
    assert held(played) == ["overlap|One|k"], "the second job's, which only it frees"


@pytest.mark.parametrize(("seconds", "ignored"), [(59, True), (60, False)])
def test_the_lock_of_a_unique_job_is_free_60_seconds_after_its_worker_died(
    seconds: int, ignored: bool, play: Play, store: str
) -> None:
    jobs = {"U1": unique(["crash", "ok"], tries=2), "U2": unique(["ok"])}
    played = play(scenario(jobs, *dispatch("U1"), work(), advance(seconds), *dispatch("U2"), work()), store)
    assert ("dispatch_ignored" in played) is ignored
    assert handled(played) == (["U1"] if ignored else ["U1", "U2"])


def test_a_job_whose_lock_a_twin_has_got_waits_for_it_and_uses_up_no_attempt(play: Play, store: str) -> None:
    jobs = {"U1": unique(["crash", "ok"], tries=2), "U2": unique(["pause"], tries=2)}
    steps = [
        *(*dispatch("U1"), work(), advance(60), *dispatch("U2"), work(worker="w2")),
        *(advance(30), work(), advance(1), work(), advance(2), work(), {"op": "resume", "worker": "w2"}, DRAIN),
    ]
    played = play(scenario(jobs, *steps), store)
    assert played["handle"] == [("U1", 1.0, "crash"), ("U2", 1.0, "pause"), ("U1", 2.0, "ok")]
    assert held(played) == []


# -- 13: running in the caller


def test_dispatch_sync_of_a_job_that_an_overlap_turns_away_raises(play: Play, store: str) -> None:
    jobs = {"A": {"middleware": [OVERLAP]}}
    played = play(scenario(jobs, BUSY, {"op": "dispatch_sync", "job": "A"}), store)
    assert played["raised_to_caller"] == [("JobReleasedError",)]
    assert "handle" not in played


# -- 16: unique until the code runs


@pytest.mark.parametrize(
    ("layer", "locks"),
    [
        ({"type": "release", "seconds": 10}, ["unique|One|x"]),
        ({"type": "skip"}, []),
        ({"type": "delete"}, []),
        ({"type": "fail", "exc": "MwFail"}, []),
        ({"type": "raise", "exc": "MwBoom"}, []),
    ],
)
def test_a_lock_until_processing_is_kept_only_if_the_job_comes_back(
    layer: dict[str, Any], locks: list[str], play: Play, store: str
) -> None:
    jobs = {"U1": unique(["ok"], until="processing", middleware=[layer], tries=1)}
    played = play(scenario(jobs, *dispatch("U1"), work(max_jobs=1)), store)
    assert held(played) == locks


def test_a_lock_until_processing_is_free_when_the_code_runs(play: Play, store: str) -> None:
    jobs = {"U1": unique(["dispatch:U2"], until="processing"), "U2": unique(["ok"], until="processing")}
    played = play(scenario(jobs, *dispatch("U1"), DRAIN), store)
    assert handled(played) == ["U1", "U2"]


# -- 18: what fail() entails happens when the attempt ends


def test_a_unique_job_that_fails_holds_its_lock_while_its_code_runs(play: Play, store: str) -> None:
    jobs = {"U1": unique(["fail:E1+dispatch:U2"]), "U2": unique(["ok"])}
    played = play(scenario(jobs, *dispatch("U1"), DRAIN), store)
    assert played["dispatch_ignored"] == [("U2",)]
    assert failures(played) == [("U1", "E1")]
    assert held(played) == []
