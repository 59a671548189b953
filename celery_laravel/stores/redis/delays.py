"""Delayed jobs on Redis: a hash of records, what is due by when, and indices sorted as text."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery_laravel.stores.instants import MICROSECOND, as_datetime
from celery_laravel.stores.records import DelayRecord, refuse_targets
from celery_laravel.stores.redis.keys import FOR_EVER, beginning_with
from celery_laravel.stores.redis.scripts import script

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from celery_laravel.stores.records import NewDelay
    from celery_laravel.stores.redis.cluster import ClusterConnections
    from celery_laravel.stores.redis.connections import Connections
    from celery_laravel.stores.redis.keys import Keys

logger = logging.getLogger(__name__)

PAGE = 100
"""Messages in one answer: each is as large as its job's arguments."""
MOST_AT_ONCE = 2000
"""Messages in one step: Lua passes no more than some thousand arguments to a command."""
REFUSED_FOR = timedelta(seconds=30)
"""How long a message waits once more that its list did not take."""
_DUE = 17
"""Bytes of ``DUE:`` in an index."""

_PARK, _MOVE, _CLAIM = script("park"), script("move_delays"), script("claim_delays")
_REMOVE, _REVOKE, _LIST = script("remove_delays"), script("revoke_delay"), script("list_delays")


class RedisDelayStore:
    """A `DelayStore` on Redis, which pushes what is due to the lists of its own server; on a cluster, to none."""

    def __init__(
        self, connections: Connections | ClusterConnections, keys: Keys, server: Hashable | None = None
    ) -> None:
        self._connections = connections
        self._keys = keys.delays
        self.server = server

    def park(self, delays: Sequence[NewDelay]) -> None:
        if self.server is None:
            refuse_targets(delays)
        pushed = [delay for delay in delays if delay.target is not None]
        arguments: list[Any] = [len(pushed)]
        for delay in (*pushed, *(delay for delay in delays if delay.target is None)):
            wait = min(max(0, delay.delay // MICROSECOND), FOR_EVER)
            arguments += (delay.entry, wait, delay.job_id, delay.queue, _head(delay), delay.message)
        self._connections.call(_PARK, self._keys, arguments)

    def move(self, *, limit: int) -> int:
        if self.server is None:
            return 0
        arguments = (min(limit, MOST_AT_ONCE), REFUSED_FOR // MICROSECOND)
        moved, *refused = self._connections.call(_MOVE, self._keys, arguments)
        if refused:
            said = "; ".join(line.decode(errors="replace") for line in refused)
            logger.error("Delayed jobs that are due cannot be put into their queue, %s", said)
        return int(moved)

    def claim(self, *, limit: int, lease: timedelta) -> list[DelayRecord]:
        arguments = (min(limit, MOST_AT_ONCE), lease // MICROSECOND)
        return _records(self._connections.call(_CLAIM, self._keys, arguments))

    def remove(self, entries: Sequence[str]) -> int:
        once = tuple(dict.fromkeys(entries))
        parts = [once[start : start + MOST_AT_ONCE] for start in range(0, len(once), MOST_AT_ONCE)]
        return sum(int(self._connections.call(_REMOVE, self._keys, part)) for part in parts)

    def revoke(self, entry: str, message: str) -> bool:
        return bool(self._connections.call(_REVOKE, self._keys, (entry, message)) == 1)

    def find(self, job_id: str) -> list[DelayRecord]:
        first, last, length = beginning_with(job_id)
        found = self._list(self._keys[3], first, last, length, None)
        return sorted((record for record in found if record.job_id == job_id), key=_order)

    def all(self, *, queue: str | None = None, limit: int | None = None) -> list[DelayRecord]:
        if queue is None:
            return self._list(self._keys[4], b"-", b"+", _DUE, limit)
        first, last, length = beginning_with(queue)
        return self._list(self._keys[5], first, last, length + _DUE, limit)

    def count(self, *, queue: str | None = None) -> int:
        if queue is None:
            return int(self._connections.command("HLEN", self._keys[0]))
        first, last, _ = beginning_with(queue)
        return int(self._connections.command("ZLEXCOUNT", self._keys[5], first, last))

    def _list(self, index: str, first: bytes, last: bytes, prefix: int, limit: int | None) -> list[DelayRecord]:
        records: list[DelayRecord] = []
        while limit is None or len(records) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(records))
            page = self._connections.call(_LIST, (self._keys[0], index), (first, last, size, prefix))
            if not page:
                break
            first = b"(" + page[0]
            records += _records(page[1:])
        return records


def _head(delay: NewDelay) -> str:
    head = {"job": delay.job_id, "task": delay.task, "queue": delay.queue}
    return json.dumps(head if delay.target is None else {**head, "target": delay.target})


def _order(record: DelayRecord) -> tuple[Any, str]:
    return record.due_at, record.entry


def _records(answer: Sequence[bytes]) -> list[DelayRecord]:
    return [_record(entry, record) for entry, record in zip(answer[::2], answer[1::2], strict=True)]


def _record(entry: bytes, record: bytes) -> DelayRecord:
    words, _, message = record.partition(b"\n")
    due, parked, revoked, head = words.split(b" ", 3)
    values = json.loads(head)
    return DelayRecord(
        entry=entry.decode(),
        job_id=values["job"],
        task=values["task"],
        queue=values["queue"],
        message=message.decode(),
        target=values.get("target"),
        due_at=as_datetime(int(due)),
        parked_at=as_datetime(int(parked)),
        is_revoked=revoked == b"1",
    )
