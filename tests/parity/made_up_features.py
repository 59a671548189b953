"""What made-up scenarios are made of that has to do with locks, limits and workers that die."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

LIMITERS = {
    "each": {"max": 1, "per_minutes": 1, "by": "data.user", "unlimited_if": ["vip", True]},
    "all": [{"max": 3, "per_minutes": 2, "by": "all"}, {"max": 1, "per_minutes": 1, "by": "data.user"}],
    "few": {"max": 2},
}

_limited = st.builds(
    lambda limiter, release: {"type": "rate_limited", "limiter": limiter, **release},
    st.sampled_from(["each", "all", "few", "few", "unknown"]),
    st.sampled_from([{}, {}, {"release": False}]),
)

_overlapping = st.builds(
    lambda key, after, expiry: {"type": "without_overlapping", "key": key, **after, **expiry},
    st.sampled_from(["k1", "k2"]),
    st.sampled_from([{}, {"release_after": 15}, {"release_after": None}]),
    st.sampled_from([{}, {}, {"expire_after": 30}]),
)

_throttling = st.builds(
    lambda most, decay, backoff, more: {
        "type": "throttles_exceptions",
        "max": most,
        "decay_minutes": decay,
        "backoff_minutes": backoff,
        **more,
    },
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([0, 0, 1]),
    st.sampled_from([{}, {"by": "svc"}, {"by_job": True}, {"when": ["E1"]}, {"when": ["E2", "ConfigurationError"]}]),
)

layers = st.one_of(_limited, _overlapping, _overlapping, _throttling)

uniqueness = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["x", "x", "y"]),
        "for": st.sampled_from([0, 30, 3600]),
        "until_processing": st.booleans(),
    },
)

data = st.fixed_dictionaries({"user": st.sampled_from(["u1", "u2"])}, optional={"vip": st.booleans()})


def steps(labels: tuple[str, ...], *, worker_may_die: bool) -> Any:
    """Steps beside those that all scenarios have."""
    label = st.sampled_from(labels)
    found = [
        st.builds(lambda job: {"op": "dispatch", "job": job}, label),
        st.builds(lambda job: {"op": "dispatch", "job": job}, label),
        st.builds(lambda job: {"op": "acquire_overlap", "job": job}, label),
        st.builds(lambda job: {"op": "release_overlap", "job": job}, label),
        st.builds(lambda seconds: {"op": "advance", "seconds": seconds}, st.sampled_from([30, 59, 61, 95])),
    ]
    if worker_may_die:
        found += [
            st.just({"op": "pop_and_crash"}),
            st.builds(lambda name: {"op": "work", "worker": name}, st.sampled_from(["w1", "w2"])),
        ]
    return st.one_of(found)
