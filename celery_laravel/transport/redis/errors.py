"""Which refusals of a Redis server end by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.exceptions import ResponseError

_PASSING = ("MISCONF", "NOREPLICAS", "OOM", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN")
_PASSING_KINDS = ("OutOfMemoryError", "ClusterDownError", "MasterDownError", "TryAgainError")


def is_passing(error: ResponseError) -> bool:
    """Whether the server may take the same command later: its disk is full, say, or its replicas are away.

    redis-py leaves the code out of some errors and gives them classes of their own,
    and puts those of a pipeline into a sentence; old servers do so with a script's.
    """
    said = str(error).rpartition(" of pipeline caused error: ")[2]
    return type(error).__name__ in _PASSING_KINDS or any(
        said.startswith(f"{code} ") or f"-{code} " in said for code in _PASSING
    )
