"""Who holds a lock: a token for each start of an attempt.

A job's id would not do: a copy of the message that is delivered again, or an
earlier start that was thought dead, has the same id and is somebody else. The
worker's parent makes the token, because it renews what is held under it, and
writes it into Celery's request on its way to the child: among the message's
properties, which Celery never copies into a message that is sent again.
"""

from __future__ import annotations

import os
import secrets
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROPERTY = "laravel_owner"
_ID_LENGTH = 200
"""How much of a job's id goes into a token: stores take 255 characters."""

_series: tuple[int, str, Iterator[int]] = (0, "", count())


def new_owner(job_id: str) -> str:
    """A token that nobody else has, in any process: the job's id, a slash, and this process's next number."""
    global _series  # noqa: PLW0603  one series a process; another one after a fork
    pid, prefix, numbers = _series
    if pid != os.getpid():
        _series = pid, prefix, numbers = os.getpid(), secrets.token_hex(6), count(1)
    return f"{job_id[:_ID_LENGTH]}/{prefix}{next(numbers):x}"


def is_start_of(job_id: str, owner: str) -> bool:
    """Whether a token is one that some start of this job was given."""
    return owner.rpartition("/")[0] == job_id[:_ID_LENGTH]


def write_owner(request: dict[str, Any], job_id: str) -> str:
    """Make a token for a request that is about to go to a child, write it into the request, and return it."""
    owner = new_owner(job_id)
    name_owner(request, owner)
    return owner


def name_owner(request: dict[str, Any], owner: str) -> None:
    """Write a token into a request."""
    request["properties"] = {**(request.get("properties") or {}), _PROPERTY: owner}  # the message keeps its own


def owner_beside(owner: str, job_id: str) -> str:
    """The token of a job that is started on behalf of another one's start, made from that one's token alone."""
    return f"{job_id[:_ID_LENGTH]}/{owner.rpartition('/')[2]}"


def owner_of(request: Any) -> str:
    """The token that the worker's parent gave to a running request, or a new one where there is no parent."""
    properties = getattr(request, "properties", None)
    if isinstance(properties, dict) and isinstance(properties.get(_PROPERTY), str):
        return str(properties[_PROPERTY])
    return new_owner(request.id or "")
