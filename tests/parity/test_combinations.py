"""Features that meet in one job: scenarios that no trace shows, of which the rules say what is to happen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.parity.comparison import of_a_server, projections
from tests.parity.conftest import Play
from tests.parity.differences import Here
from tests.parity.scenario import Scenario
from tests.parity.scenes import DRAIN, RETRY, advance, batch, dispatch, scenario, snapshot, work
from tests.parity.world import CAPABILITIES

RETRY_ALL = {"op": "retry_failed"}
OVERLAP = {"type": "without_overlapping", "key": "k"}
LIMITED = {"type": "rate_limited", "limiter": "one"}
THROTTLED = {"type": "throttles_exceptions", "max": 2, "decay_minutes": 5}
ONE = {"class": "One", "unique": {"id": "x"}}
ONE_QUEUED = {"class": "One", "unique": {"id": "x", "until_processing": True}}
LIMITERS = {"one": {"max": 1}, "both": [{"max": 3, "by": "all"}, {"max": 1, "by": "data.user"}]}


def resume(worker: str) -> dict[str, str]:
    return {"op": "resume", "worker": worker}


def chain(*labels: str) -> dict[str, Any]:
    return {"op": "chain", "jobs": list(labels)}


def busy(label: str) -> dict[str, str]:
    return {"op": "acquire_overlap", "job": label}


def free(label: str) -> dict[str, str]:
    return {"op": "release_overlap", "job": label}


def limits(jobs: dict[str, Any], *steps: dict[str, Any]) -> Scenario:
    return scenario(jobs, *steps, limiters=LIMITERS)


SCENARIOS: dict[str, Scenario] = {
    "a unique job is retried within a chain, and its twin is accepted after it": scenario(
        {"U1": {**ONE, "tries": 3, "script": ["raise:E1", "release:5", "ok"]}, "U2": {**ONE, "tries": 3}, "B": ["ok"]},
        *(
            chain("U1", "B", "U2"),
            work(max_jobs=1),
            *dispatch("U2"),
            snapshot("retried"),
            DRAIN,
            *dispatch("U2"),
            DRAIN,
        ),
    ),
    "the last step of a chain is suppressed by a twin that the first one dispatched": scenario(
        {"A": ["dispatch:U1"], "U1": {**ONE, "delay": 50}, "U2": ONE},
        *(chain("A", "U2"), DRAIN),
    ),
    "a unique job fails for good, is retried while a twin is queued, and both run": scenario(
        {"U1": {**ONE, "script": ["raise:E1", "ok"]}, "U2": {**ONE, "script": ["ok"]}},
        *(*dispatch("U1"), work(), *dispatch("U2"), RETRY_ALL, snapshot("retried"), DRAIN),
    ),
    "a unique job waits for a limit, its twin is suppressed, and its tries run out": limits(
        {
            "A": {"middleware": [LIMITED]},
            "U1": {**ONE, "tries": 1, "middleware": [LIMITED]},
            "U2": {**ONE, "tries": 1, "middleware": [LIMITED]},
        },
        *(*dispatch("A", "U1"), work(), *dispatch("U2"), DRAIN, *dispatch("U2"), DRAIN),
    ),
    "a unique job's hold expires while it waits, a twin runs, and neither frees the other's": scenario(
        {
            "U1": {"class": "One", "unique": {"id": "x", "for": 30}, "tries": 3, "script": ["release:40", "ok"]},
            "U2": {"class": "One", "unique": {"id": "x", "for": 30}, "tries": 3, "script": ["ok"]},
        },
        *(*dispatch("U1"), work(), advance(30), *dispatch("U2", delay=60), advance(10), work(), snapshot("one"), DRAIN),
    ),
    "an overlap within a batch waits for another worker that holds it": scenario(
        {
            "A": {"class": "One", "tries": 5, "middleware": [OVERLAP], "script": ["pause"]},
            "B": {"class": "One", "tries": 5, "middleware": [{**OVERLAP, "release_after": 10}]},
            "C": ["ok"],
        },
        *(batch(["A", ["B", "C"]]), work(worker="w1"), work(worker="w2"), snapshot("busy"), resume("w1"), DRAIN),
    ),
    "an overlap within a batch is never free, and the batch fails": scenario(
        {"A": {"tries": 2, "middleware": [OVERLAP]}, "B": {"middleware": [OVERLAP]}, "C": ["ok"]},
        *(busy("A"), batch([["A", "C"], "B"]), DRAIN, free("A"), RETRY, DRAIN),
    ),
    "a job dispatches one of the same key in its own process while it holds the lock": scenario(
        {
            "A": {"class": "One", "middleware": [OVERLAP], "script": ["dispatch_sync:B", "ok"]},
            "B": {"class": "One", "middleware": [OVERLAP]},
        },
        *(*dispatch("A"), DRAIN, RETRY_ALL, DRAIN, {"op": "dispatch_sync", "job": "B"}),
    ),
    "a job that is not released when busy is skipped, and its chain goes on": scenario(
        {"A": {"middleware": [{**OVERLAP, "release_after": None}]}, "B": ["ok"]},
        *(busy("A"), chain("A", "B"), work(), free("A"), chain("A", "B"), work()),
    ),
    "a job comes again after a crash and waits for the lock of its own earlier start": scenario(
        {
            "A": {
                "tries": 2,
                "middleware": [{**OVERLAP, "expire_after": 200, "release_after": 5}],
                "script": ["crash", "ok"],
            }
        },
        *(*dispatch("A"), work(), DRAIN),
    ),
    "two limiters on one job: the outer one's start is given back": limits(
        {
            "A": {"tries": 9, "data": {"user": "u1"}, "middleware": [{**LIMITED, "limiter": "both"}]},
            "B": {"tries": 9, "data": {"user": "u1"}, "middleware": [LIMITED, {**LIMITED, "limiter": "both"}]},
            "C": {"tries": 9, "middleware": [LIMITED]},
            "D": {"tries": 9, "middleware": [LIMITED]},
        },
        *(*dispatch("A", "B", "C", "D"), work(), snapshot("first"), DRAIN),
    ),
    "a limit inside an overlap, and an overlap inside a limit": limits(
        {
            "A": {"class": "One", "tries": 9, "middleware": [OVERLAP, LIMITED]},
            "B": {"class": "One", "tries": 9, "middleware": [LIMITED, {**OVERLAP, "release_after": 20}]},
            "C": {"class": "One", "tries": 9, "middleware": [OVERLAP, LIMITED]},
        },
        *(busy("A"), *dispatch("B", "C"), work(max_jobs=2), free("A"), *dispatch("A"), DRAIN),
    ),
    "jobs of a batch wait for their starts, and one is cancelled meanwhile": limits(
        {
            "A": {"tries": 9, "middleware": [LIMITED]},
            "B": {"tries": 9, "middleware": [LIMITED], "script": ["if_batch_cancelled_return+raise:E1"]},
            "C": {"tries": 1, "middleware": [LIMITED]},
        },
        *(batch(["A", "B", "C"]), work(), {"op": "batch_cancel", "batch": "b"}, DRAIN, RETRY, DRAIN),
    ),
    "exceptions that are throttled do not count as such, and others do": scenario(
        {
            "A": {
                "tries": 9,
                "max_exceptions": 2,
                "backoff": 4,
                "middleware": [{**THROTTLED, "when": ["Net"]}],
                "script": ["raise:Net", "raise:E1", "raise:Net", "raise:E2", "ok"],
            },
        },
        *(*dispatch("A"), DRAIN, RETRY_ALL, DRAIN),
    ),
    "a throttled job fails by hand and raises, which is counted all the same": scenario(
        {
            "A": {"class": "One", "tries": 9, "middleware": [{**THROTTLED, "max": 1}], "script": ["fail:E1+raise:E2"]},
            "B": {"class": "One", "tries": 9, "middleware": [{**THROTTLED, "max": 1}]},
        },
        *(*dispatch("A", "B"), DRAIN),
    ),
    "what a limiter's mistake raises is not throttled": limits(
        {"A": {"tries": 2, "middleware": [THROTTLED, {**LIMITED, "limiter": "unknown"}]}},
        *(*dispatch("A"), DRAIN),
    ),
    "a throttle by job begins anew for another job, and not for a retry of the same": scenario(
        {"A": {"tries": 2, "middleware": [{**THROTTLED, "max": 2, "by_job": True}], "script": ["raise:E1"]}},
        *(*dispatch("A"), work(), RETRY_ALL, work(), *dispatch("A"), work()),
    ),
    "a throttle around a limit counts what the code raises, and keeps the job's start": limits(
        {"A": {"tries": 9, "middleware": [THROTTLED, LIMITED], "script": ["raise:E1", "ok"]}},
        *(*dispatch("A"), DRAIN),
    ),
    "until processing: a middleware fails the job, and its twin is accepted": scenario(
        {"U1": {**ONE_QUEUED, "middleware": [{"type": "fail", "exc": "MwFail"}]}, "U2": ONE_QUEUED},
        *(*dispatch("U1"), work(), *dispatch("U2"), work()),
    ),
    "until processing: released by a middleware, taken by nobody, then run": scenario(
        {"U1": {**ONE_QUEUED, "tries": 3, "middleware": [{**OVERLAP, "release_after": 15}]}, "U2": ONE_QUEUED},
        *(busy("U1"), *dispatch("U1"), work(), *dispatch("U2"), snapshot("kept"), free("U1"), DRAIN),
    ),
    "until processing: a crash in the code, and a twin that is queued when the job comes again": scenario(
        {"U1": {**ONE_QUEUED, "tries": 2, "script": ["crash", "ok"]}, "U2": {**ONE_QUEUED, "tries": 2}},
        *(
            *dispatch("U1"),
            work(),
            *dispatch("U2", delay=200),
            snapshot("twin"),
            advance(90),
            work(),
            snapshot("again"),
            DRAIN,
        ),
    ),
    "a unique job whose worker dies before it runs anything": scenario(
        {"U1": {**ONE, "tries": 2}, "U2": {**ONE, "tries": 2}},
        *(*dispatch("U1"), {"op": "pop_and_crash"}, *dispatch("U2"), advance(60), snapshot("freed"), DRAIN),
    ),
    "a job that declares nothing is gone with its worker, and one of a batch is not": scenario(
        {"A": ["crash", "ok"], "B": ["crash", "ok"], "C": ["ok"]},
        *(
            *dispatch("A"),
            work(),
            batch(["B", "C"]),
            work(tries=3),
            DRAIN,
            snapshot("tried once"),
            work(tries=3),
            DRAIN,
        ),
    ),
    "a job times out under a throttle, and fails at once where it says so": scenario(
        {
            "A": {"tries": 3, "timeout": 1, "middleware": [THROTTLED], "script": ["sleep:3", "sleep:3", "ok"]},
            "B": {"tries": 3, "timeout": 1, "fail_on_timeout": True, "script": ["sleep:3", "ok"]},
        },
        *(*dispatch("A", "B"), {"op": "work_daemon"}),
    ),
}


def _cases() -> list[Any]:
    """Not on Redis where time passes, which a server's clock would not follow."""
    cases = []
    for name, each in SCENARIOS.items():
        rules = Here(each)
        rules.play()
        assert not (each.needs | rules.asked_for) - CAPABILITIES, name
        stores = ["memory", "sqlite", *(["redis"] if rules.now == 0 else [])]
        for store in stores:
            marks = [pytest.mark.redis] if store == "redis" else []
            cases.append(pytest.param(each, store, id=f"{name}-{store}", marks=marks))
    return cases


@pytest.mark.parametrize(("each", "store"), _cases())
def test_features_that_meet_in_one_job_keep_to_the_rules(each: Scenario, store: str, play: Play) -> None:
    rules = Here(each)
    final = rules.play()
    seen, expected = play(each, store), projections(rules.log, final)
    assert (of_a_server(seen, expected) if store == "redis" else seen) == expected
