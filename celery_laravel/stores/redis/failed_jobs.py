"""Failed jobs on Redis: a hash of records, and two indices sorted as text."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery_laravel.stores.records import FailedJob
from celery_laravel.stores.redis.instants import as_datetime, as_microseconds
from celery_laravel.stores.redis.scripts import script

if TYPE_CHECKING:
    from celery_laravel.stores.redis.cluster import ClusterConnections
    from celery_laravel.stores.redis.connections import Connections
    from celery_laravel.stores.redis.keys import Keys

PAGE = 500
MEMORY_OF_CALLS = timedelta(minutes=1) // timedelta(milliseconds=1)

_RECORD, _FORGET, _FLUSH, _LIST = script("record"), script("forget"), script("flush"), script("list")
_FIELDS = tuple(field.name for field in fields(FailedJob))


class RedisFailedJobStore:
    """A `FailedJobStore` on Redis."""

    def __init__(self, connections: Connections | ClusterConnections, keys: Keys) -> None:
        self._connections = connections
        self._names = keys
        self._keys = (keys.failed_jobs, keys.failed_order, keys.failed_queues)

    def record(self, job: FailedJob) -> bool:
        values: dict[str, Any] = {name: getattr(job, name) for name in _FIELDS}
        values["failed_at"] = as_microseconds(job.failed_at)
        values["payload"] = dict(job.payload)
        arguments = (job.id, _place(job.failed_at), job.queue, json.dumps(values), os.urandom(8).hex())
        answer = self._connections.call(_RECORD, (*self._keys, self._names.failed_sequence), arguments)
        return bool(answer == 1)

    def find(self, job_id: str) -> FailedJob | None:
        record = self._connections.command("HGET", self._names.failed_jobs, job_id)
        return None if record is None else _job(record)

    def all(self, *, queue: str | None = None, limit: int | None = None) -> list[FailedJob]:
        index, last, first, prefix = self._names.failed_order, b"+", b"-", 0
        if queue is not None:
            name = queue.encode()
            index, last, first, prefix = self._names.failed_queues, b"(%b\x01" % name, b"[%b\x00" % name, len(name) + 1
        jobs: list[FailedJob] = []
        while limit is None or len(jobs) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(jobs))
            keys = (self._names.failed_jobs, index)
            page = self._connections.call(_LIST, keys, (last, first, size, prefix))
            if not page:
                break
            last = b"(" + page[0]
            jobs += map(_job, page[1:])
        return jobs

    def count(self, *, queue: str | None = None) -> int:
        if queue is None:
            return int(self._connections.command("ZCARD", self._names.failed_order))
        name = queue.encode()
        range_of_queue = (b"[%b\x00" % name, b"(%b\x01" % name)
        return int(self._connections.command("ZLEXCOUNT", self._names.failed_queues, *range_of_queue))

    def forget(self, job_id: str) -> bool:
        keys = (*self._keys, self._names.failed_call(os.urandom(8).hex()))
        return bool(self._connections.call(_FORGET, keys, (job_id, MEMORY_OF_CALLS)) == 1)

    def flush(self, *, before: datetime | None = None) -> int:
        end = "+" if before is None else f"({_place(before)}"
        flushed = 0
        while removed := self._connections.call(_FLUSH, self._keys, (end, PAGE)):
            flushed += removed
        return flushed


def _place(instant: datetime) -> str:
    """An instant as text that sorts like instants do."""
    return f"{max(0, as_microseconds(instant)):017d}"


def _job(record: bytes) -> FailedJob:
    _token, _place_and_number, rest = record.split(b" ", 2)
    length, _, body = rest.partition(b":")
    values = json.loads(body[int(length) :])
    values["failed_at"] = as_datetime(values["failed_at"])
    return FailedJob(**values)
