"""What a Redis server tells of itself that matters to whoever keeps records in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_laravel.stores.records import Persistence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def facts_of(command: Callable[..., Any]) -> dict[str, Any]:
    """The fields of a `StoreCondition` that ``INFO`` and, where it is allowed, ``CONFIG GET`` tell of."""
    info = _read_info(command("INFO"))
    return {"persistence": _persistence(info, command), "eviction": _eviction(info), "refusal": _refusal(info)}


def _persistence(info: Mapping[str, str], command: Callable[..., Any]) -> Persistence:
    if info.get("aof_enabled") == "1":
        return Persistence.KEPT
    try:
        points = command("CONFIG", "GET", "save")
    except Exception:  # hosted servers do not let everybody see their configuration; each client has errors of its own
        return Persistence.UNKNOWN
    values = list(points.values()) if isinstance(points, dict) else list(points)[1::2]
    return Persistence.SNAPSHOTS if values and values[0] else Persistence.NONE


def _eviction(info: Mapping[str, str]) -> str:
    policy = info.get("maxmemory_policy", "noeviction")
    return "" if policy == "noeviction" or info.get("maxmemory", "0") == "0" else policy


def _refusal(info: Mapping[str, str]) -> str:
    if info.get("role") in {"slave", "replica"}:
        return "it is a replica, which cannot be written to"
    if info.get("loading") == "1":
        return "it is still loading its data"
    if info.get("aof_enabled") == "1" and info.get("aof_last_write_status", "ok") != "ok":
        return "its append-only file cannot be written (is the disk full?)"
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return "its last snapshot failed (is the disk full?), upon which it refuses changes"
    return ""


def _read_info(answer: Any) -> dict[str, str]:
    """The lines of ``INFO``, be they as they came or taken apart by a client; of a cluster, those of one node."""
    if isinstance(answer, dict):
        first = next(iter(answer.values()), None)
        return _read_info(first) if isinstance(first, dict) else {key: str(value) for key, value in answer.items()}
    text = answer.decode() if isinstance(answer, bytes) else str(answer)
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in lines}
