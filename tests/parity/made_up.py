"""Scenarios that nobody recorded, for the library and the rules to agree on."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.parity import made_up_features as features
from tests.parity.scenario import Scenario

_LABELS = ("A", "B", "C", "D")
_LATE = ("Y", "Z")
"""Jobs that others dispatch and add; they start nothing themselves, so that no scenario goes on for ever."""

_SECONDS = st.sampled_from(["0", "5", "20"])
_PLAIN = st.one_of(
    st.sampled_from(
        ["ok", "raise:E1", "raise:E2", "fail", "fail:E3", "delete", "return", "dispatch:Z", "dispatch_sync:Y"]
    ),
    _SECONDS.map("release:{}".format),
    st.just("advance:7"),
)
_OF_BATCHES = st.sampled_from(
    ["batch.cancel", "batch.add:Y", "batch.add:Y,Z", "batch.log", "if_batch_cancelled_return"]
)
_CALLBACKS = st.sampled_from(
    ["c1", {"name": "c2", "action": "raise:E6"}, {"name": "c3", "action": "dispatch:Z", "once": True}]
)
_LAYERS = st.one_of(
    st.sampled_from([{"type": "log"}, {"type": "skip"}, {"type": "swallow"}, {"type": "delete"}]),
    st.builds(lambda seconds: {"type": "release", "seconds": seconds}, st.sampled_from([0, 4])),
    st.sampled_from([{"type": "fail", "exc": "MwFail"}, {"type": "raise", "exc": "MwBoom"}, {"type": "log"}]),
)


def _scripts(primitives: Any) -> Any:
    actions = st.lists(primitives, min_size=1, max_size=3).map("+".join)
    return st.lists(st.one_of(st.just("ok"), actions), min_size=1, max_size=4)


def _jobs(primitives: Any, layers: Any = _LAYERS, **more: Any) -> Any:
    return st.fixed_dictionaries(
        {"script": _scripts(primitives)},
        optional={
            **more,
            "tries": st.integers(1, 4),
            "max_exceptions": st.integers(1, 3),
            "backoff": st.one_of(st.sampled_from([0, 3]), st.lists(st.sampled_from([1, 4, 9]), min_size=1, max_size=3)),
            "retry_until_s": st.sampled_from([5, 20, 60]),
            "delay": st.sampled_from([0, 10]),
            "middleware": st.lists(layers, max_size=3),
            "failed_hook": st.booleans(),
            "failed_hook_action": st.sampled_from(["raise:HookError", "dispatch:Z"]),
        },
    )


@st.composite
def scenarios(draw: Any) -> Scenario:
    """Jobs of any kind, dispatched alone, in a chain or in a batch, then worked, retried and worked again."""
    shape = draw(st.sampled_from(["alone", "chain", "batch"]))
    primitives = st.one_of(_PLAIN, _OF_BATCHES) if shape == "batch" else _PLAIN
    jobs = {label: draw(_jobs(primitives)) for label in _LABELS}
    jobs |= {label: {"script": draw(_scripts(st.sampled_from(["ok", "raise:E4", "fail:E5"])))} for label in _LATE}
    jobs["Y"]["failed_hook"] = draw(st.booleans())
    members = draw(st.lists(st.sampled_from(_LABELS), min_size=1, max_size=4, unique=True))
    steps = [*_starts(draw, shape, members), *draw(st.lists(_works(shape), min_size=1, max_size=5))]
    return Scenario.read({"name": "made up", "jobs": jobs, "steps": [*steps, {"op": "drain"}]})


@st.composite
def scenarios_with_locks_and_limits(draw: Any) -> Scenario:
    """The same with jobs that are unique, limited, throttled and kept from overlapping, and with workers that die."""
    shape = draw(st.sampled_from(["alone", "alone", "chain", "batch"]))
    worker_may_die = draw(st.booleans())
    primitives = st.one_of(_PLAIN, _OF_BATCHES) if shape == "batch" else _PLAIN
    hard = st.one_of(primitives, st.sampled_from(["crash", "pause"])) if worker_may_die else primitives
    layers = st.one_of(features.layers, features.layers, _LAYERS)
    more = {"unique": features.uniqueness, "data": features.data, "class": st.just("One")}
    jobs = {label: draw(_jobs(hard, layers, **more)) for label in _LABELS}
    jobs |= {label: draw(_late_jobs(layers, more)) for label in _LATE}
    members = draw(st.lists(st.sampled_from(_LABELS), min_size=1, max_size=4, unique=True))
    starts = _starts(draw, "in a queue" if worker_may_die and shape == "alone" else shape, members)
    step = st.one_of(_works(shape), features.steps(_LABELS, worker_may_die=worker_may_die))
    steps = [*starts, *draw(st.lists(step, min_size=2, max_size=8)), {"op": "drain"}]
    return Scenario.read({"name": "made up", "jobs": jobs, "steps": steps, "limiters": features.LIMITERS})


def _late_jobs(layers: Any, more: dict[str, Any]) -> Any:
    return st.fixed_dictionaries(
        {"script": _scripts(st.sampled_from(["ok", "ok", "raise:E4", "fail:E5", "release:5"]))},
        optional={"middleware": st.lists(layers, max_size=2), "failed_hook": st.booleans(), **more},
    )


def _starts(draw: Any, shape: str, members: list[str]) -> list[dict[str, Any]]:
    if shape == "alone":
        ops = st.sampled_from(["dispatch", "dispatch", "dispatch_sync"])
        return [{"op": draw(ops), "job": label} for label in members]
    if shape == "in a queue":
        return [{"op": "dispatch", "job": label} for label in members]
    if shape == "chain":
        return [{"op": "chain", "jobs": members, "catch": draw(st.lists(_CALLBACKS, max_size=2))}]
    cut = draw(st.integers(0, len(members)))
    chain, rest = members[:cut], members[cut:]
    callbacks = st.lists(_CALLBACKS, max_size=2)
    return [
        {
            "op": "batch",
            "id": "b",
            "jobs": [*([chain] if chain else []), *rest],
            "then": draw(callbacks),
            "catch": draw(callbacks),
            "finally": draw(callbacks),
            "allow_failures": draw(st.booleans()),
        }
    ]


def _works(shape: str) -> Any:
    steps: list[Any] = [
        st.builds(lambda jobs: {"op": "work", "max_jobs": jobs}, st.integers(1, 3)),
        st.builds(
            lambda tries, backoff: {"op": "work", "tries": tries, "backoff": backoff}, st.integers(1, 3), st.just(2)
        ),
        st.just({"op": "drain"}),
        st.just({"op": "advance", "seconds": 6}),
        st.just({"op": "retry_failed"}),
        st.just({"op": "retry_failed", "job": "A"}),
        st.just({"op": "snapshot", "name": "meanwhile"}),
    ]
    if shape == "batch":
        steps += [
            st.just({"op": "retry_batch", "batch": "b"}),
            st.just({"op": "batch_cancel", "batch": "b"}),
            st.just({"op": "batch_add", "batch": "b", "jobs": ["Y", ["Z", "Y"]]}),
        ]
    return st.one_of(steps)
