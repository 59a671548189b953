"""The names of all keys, and which of them lie together on a cluster.

A script may touch only keys of one hash slot. An attempt is one key. A batch is
several, and stands in indices that are asked across batches (all of them, and
what is due). So batches are dealt out over a number of shards, each with a hash
tag and indices of its own: what a script changes in a batch and in its indices
is one step on a cluster as well, and only a question across batches goes to
every shard. A single server has one shard.

All locks lie together, since an owner may hold any number of them and is
renewed in one step; all limits of one limiter do, since a start is counted in
all of them or in none. All delayed jobs do, since what is due is asked for in
one step.
"""

from __future__ import annotations

import os
from datetime import timedelta
from zlib import crc32

CLUSTER_SHARDS = 32

MEMORY_OF_CALLS = timedelta(minutes=1) // timedelta(milliseconds=1)
"""Milliseconds for which the answer to a call is kept, should it come again because its answer was lost."""

FOR_EVER = 9 * 10**15
"""Microseconds, as a duration and as an instant: more than is meant, and less than a double cannot count exactly."""


def beginning_with(name: str) -> tuple[bytes, bytes, int]:
    """Of an index sorted as text, the entries that begin with a name and a zero byte, and how many bytes these are."""
    encoded = name.encode()
    return b"[%b\x00" % encoded, b"(%b\x01" % encoded, len(encoded) + 1


def new_token() -> str:
    """What tells one call from all others, so that the server knows it when it comes again."""
    return os.urandom(8).hex()


class Keys:
    """The keys under one prefix."""

    def __init__(self, prefix: str, shards: int = 1) -> None:
        self.prefix = prefix
        tags = ["{batches}"] if shards == 1 else [f"{{batches-{number}}}" for number in range(shards)]
        self._shards = [f"{prefix}:{tag}" for tag in tags]
        failed = f"{prefix}:{{failed}}"
        self.failed_jobs = f"{failed}:jobs"
        self.failed_order = f"{failed}:order"
        self.failed_queues = f"{failed}:queues"
        self.failed_claims = f"{failed}:claims"
        self.failed_claimed = f"{failed}:claimed"
        self.failed_sequence = f"{failed}:sequence"
        self._attempt = f"{prefix}:attempt:"
        self._locks = f"{prefix}:{{locks}}"
        self.locks_taken = f"{self._locks}:taken"
        self.locks_ends = f"{self._locks}:ends"
        names = ("records", "pushed", "claimed", "by-job", "by-due", "by-queue")
        self.delays = tuple(f"{prefix}:{{delays}}:{name}" for name in names)
        """The keys that every script of delayed jobs takes, in that order."""

    def attempt(self, job_id: str) -> str:
        """What is known of a job's attempts."""
        return self._attempt + job_id

    def batch(self, batch_id: str) -> tuple[str, str, str, str]:
        """The keys that every script of a batch takes first: batch, members, failed ids, due marks."""
        shard = self._shard(batch_id)
        return f"{shard}:batch:{batch_id}", f"{shard}:members:{batch_id}", f"{shard}:failed:{batch_id}", f"{shard}:due"

    def index_of(self, batch_id: str) -> str:
        """The index in which a batch stands."""
        return f"{self._shard(batch_id)}:index"

    def due_of(self, batch_id: str) -> str:
        """Where a batch's due marks are."""
        return f"{self._shard(batch_id)}:due"

    def batch_call(self, batch_id: str) -> str:
        """Where the answer to a new call about a batch is kept for as long as the call may be repeated."""
        return f"{self._shard(batch_id)}:call:{new_token()}"

    def failed_call(self) -> str:
        """As `batch_call`, for a call about a failed job."""
        return f"{self.prefix}:{{failed}}:call:{new_token()}"

    def lock(self, key: str) -> str:
        """The holds on a lock."""
        return f"{self._locks}:lock:{key}"

    def lock_owner(self, owner: str) -> str:
        """The names of the locks that an owner holds."""
        return f"{self._locks}:owner:{owner}"

    def lock_call(self) -> str:
        """As `batch_call`, for a call about locks."""
        return f"{self._locks}:call:{new_token()}"

    def limit(self, name: str, key: str) -> tuple[str, str, str]:
        """The keys of one limit: starts counted, full windows, kept starts."""
        tagged = self._limiter(name)
        return f"{tagged}:counts:{key}", f"{tagged}:full:{key}", f"{tagged}:kept:{key}"

    def limit_call(self, name: str) -> str:
        """As `batch_call`, for a call about a limiter."""
        return f"{self._limiter(name)}:call:{new_token()}"

    def debounce(self, key: str) -> str:
        """The periods of one key of debounced jobs."""
        return f"{self.prefix}:debounce:{key}"

    @property
    def indices(self) -> list[str]:
        """The index of every shard: all its batches, oldest first."""
        return [f"{shard}:index" for shard in self._shards]

    @property
    def dues(self) -> list[str]:
        """The due marks of every shard, longest due first."""
        return [f"{shard}:due" for shard in self._shards]

    def _limiter(self, name: str) -> str:
        return f"{self.prefix}:{{limits-{len(name)}:{name}}}"  # no two names share a beginning by way of a brace

    def _shard(self, batch_id: str) -> str:
        if len(self._shards) == 1:
            return self._shards[0]
        return self._shards[crc32(batch_id.encode()) % len(self._shards)]
