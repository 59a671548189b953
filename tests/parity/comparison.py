"""What is compared of a scenario that was played twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_BY_KIND = {
    "handle": ("job", "attempt", "do"),
    "failed_hook": ("job", "type"),
    "failed": ("job", "type"),
    "callback": ("kind", "name", "exception"),
    "released": ("job", "delay"),
    "middleware": ("job", "name", "phase"),
    "dispatch_ignored": ("job",),
    "saw_cancelled": ("job",),
    "raised_to_caller": ("type",),
    "returned_to_caller": (),
    "batch_add_refused": ("type",),
}
"""Kinds of events whose sequence counts, each for itself: the order between kinds is nobody's promise."""


def projections(events: Iterable[Mapping[str, Any]], final: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a log that are compared, by name; parts that are empty are left out."""
    events = list(events)
    parts: dict[str, Any] = {}
    for kind, fields in _BY_KIND.items():
        parts[kind] = [tuple(_plain(event.get(name)) for name in fields) for event in events if event["event"] == kind]
    parts["exception"] = Counter((event["job"], event["type"]) for event in events if event["event"] == "exception")
    parts["snapshots"] = [(event["name"], standing(event["state"])) for event in events if event["event"] == "snapshot"]
    parts["batch_state"] = [without(event["batch"], ["id"]) for event in events if event["event"] == "batch_state"]
    return {name: part for name, part in parts.items() if part} | {"final": standing(final)}


def standing(state: Mapping[str, Any]) -> dict[str, Any]:
    """Failed jobs, batches, locks and queues, without the time."""
    return {name: state[name] for name in ("failed_jobs", "batches", "locks", "queues")}


def without(parts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Projections less those named."""
    return {name: part for name, part in parts.items() if name not in names}


def of_a_server(seen: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """What was seen on a store that has a clock of its own, which goes on meanwhile.

    A wait that is no longer than the expected one counts as the expected one,
    for some of it has passed already.
    """
    released, wanted = seen.get("released", []), expected.get("released", [])
    if len(released) == len(wanted):
        pairs = zip(released, wanted, strict=True)
        released = [(job, max(delay, most)) for (job, delay), (_, most) in pairs]
    return {**seen, "released": released} if released else dict(seen)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float)) else value
