"""Short words for scenarios, and for what was seen of one that was played."""

from __future__ import annotations

from typing import Any

from tests.parity.scenario import Scenario

STORES = ("memory", "sqlite")

Played = dict[str, Any]


def scenario(scripts: dict[str, Any], *steps: dict[str, Any], **more: Any) -> Scenario:
    """Jobs by label, each a script or a whole definition, and what is done with them."""
    jobs = {label: given if isinstance(given, dict) else {"script": given} for label, given in scripts.items()}
    return Scenario.read({"jobs": jobs, "steps": list(steps), **more})


def alone(**job: Any) -> Scenario:
    return scenario({"A": job}, {"op": "dispatch", "job": "A"}, {"op": "drain"})


def batch(jobs: list[Any], *, allow_failures: bool = False) -> dict[str, Any]:
    callbacks = {kind: [kind] for kind in ("then", "catch", "finally")}
    return {"op": "batch", "id": "b", "jobs": jobs, "allow_failures": allow_failures, **callbacks}


DRAIN = {"op": "drain"}
RETRY = {"op": "retry_batch", "batch": "b"}


def snapshot(name: str) -> dict[str, str]:
    return {"op": "snapshot", "name": name}


def handled(played: Played) -> list[str]:
    return [label for label, _attempt, _action in played.get("handle", [])]


def called(played: Played) -> list[str]:
    return [kind for kind, _name, _exception in played.get("callback", [])]


def counts(played: Played, at: str | None = None) -> dict[str, Any]:
    """The batch at a snapshot, or at the end."""
    state = played["final"] if at is None else dict(played["snapshots"])[at]
    shape: dict[str, Any] = state["batches"]["b"]
    return shape


def waiting(played: Played) -> int:
    return sum(sum(lengths.values()) for lengths in played["final"]["queues"].values())


def failures(played: Played) -> list[tuple[str, str]]:
    return [(failed["job"], failed["type"]) for failed in played["final"]["failed_jobs"]]


def held(played: Played, at: str | None = None) -> list[str]:
    """The locks that were held at a snapshot, or at the end."""
    state = played["final"] if at is None else dict(played["snapshots"])[at]
    locks: list[str] = state["locks"]
    return locks


def dispatch(*labels: str, **options: Any) -> list[dict[str, Any]]:
    return [{"op": "dispatch", "job": label, **options} for label in labels]


def advance(seconds: float) -> dict[str, Any]:
    return {"op": "advance", "seconds": seconds}


def work(**options: Any) -> dict[str, Any]:
    return {"op": "work", **options}
