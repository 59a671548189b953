"""Failed jobs on Redis: hashes of records and of claims, and indices sorted as text."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from celery_laravel.stores.instants import MICROSECOND, as_datetime, as_microseconds
from celery_laravel.stores.records import FailedJob
from celery_laravel.stores.redis.keys import FOR_EVER, MEMORY_OF_CALLS, beginning_with, new_token
from celery_laravel.stores.redis.scripts import script

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta

    from celery_laravel.stores.redis.cluster import ClusterConnections
    from celery_laravel.stores.redis.connections import Connections
    from celery_laravel.stores.redis.keys import Keys

PAGE = 500

_RECORD, _FORGET, _FLUSH, _LIST = script("record"), script("forget"), script("flush"), script("list")
_FIND, _CLAIM, _RELEASE = script("find_failed"), script("claim_failed"), script("release_failed")
_INTERRUPTED = script("interrupted")
_FIELDS = tuple(field.name for field in fields(FailedJob) if field.name != "claimed_until")


class RedisFailedJobStore:
    """A `FailedJobStore` on Redis."""

    def __init__(self, connections: Connections | ClusterConnections, keys: Keys) -> None:
        self._connections = connections
        self._names = keys
        indices = (keys.failed_order, keys.failed_queues)
        self._keys = (keys.failed_jobs, *indices, keys.failed_claims, keys.failed_claimed)

    def record(self, job: FailedJob) -> bool:
        values: dict[str, Any] = {name: getattr(job, name) for name in _FIELDS}
        values["failed_at"] = as_microseconds(job.failed_at)
        values["payload"] = dict(job.payload)
        arguments = (job.id, _place(job.failed_at), job.queue, json.dumps(values), new_token())
        answer = self._connections.call(_RECORD, (*self._keys, self._names.failed_sequence), arguments)
        return bool(answer == 1)

    def find(self, job_id: str) -> FailedJob | None:
        keys = (self._names.failed_jobs, self._names.failed_claims)
        answer = self._connections.call(_FIND, keys, (job_id,))
        return None if answer is None else _job(*answer)

    def all(self, *, queue: str | None = None, limit: int | None = None) -> list[FailedJob]:
        index, last, first, prefix = self._names.failed_order, b"+", b"-", 0
        if queue is not None:
            index = self._names.failed_queues
            first, last, prefix = beginning_with(queue)
        jobs: list[FailedJob] = []
        while limit is None or len(jobs) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(jobs))
            keys = (self._names.failed_jobs, index, self._names.failed_claims)
            page = self._connections.call(_LIST, keys, (last, first, size, prefix))
            if not page:
                break
            last = b"(" + page[0]
            jobs += _jobs(page[1:])
        return jobs

    def count(self, *, queue: str | None = None) -> int:
        if queue is None:
            return int(self._connections.command("ZCARD", self._names.failed_order))
        first, last, _ = beginning_with(queue)
        return int(self._connections.command("ZLEXCOUNT", self._names.failed_queues, first, last))

    def claim(self, job_id: str, *, owner: str, lease: timedelta) -> FailedJob | None:
        job = self.find(job_id)  # for its batch, which is the same for as long as there is a record of that id
        if job is None:
            return None
        arguments = (job_id, owner, min(lease // MICROSECOND, FOR_EVER), job.batch_id or "")
        answer = self._connections.call(_CLAIM, self._keys, arguments)
        return None if answer is None else _job(*answer)

    def release(self, job_id: str, *, owner: str) -> bool:
        return bool(self._connections.call(_RELEASE, self._keys, (job_id, owner)) == 1)

    def interrupted(self, batch_id: str) -> list[FailedJob]:
        first, last, prefix = beginning_with(batch_id)
        jobs: list[FailedJob] = []
        while page := self._connections.call(_INTERRUPTED, self._keys, (first, last, PAGE, prefix)):
            first = b"(" + page[0]
            jobs += _jobs(page[1:])
        return sorted(jobs, key=lambda job: job.failed_at)

    def forget(self, job_id: str, *, owner: str | None = None) -> bool:
        keys = (*self._keys, self._names.failed_call())
        arguments = (job_id, MEMORY_OF_CALLS) if owner is None else (job_id, MEMORY_OF_CALLS, owner)
        return bool(self._connections.call(_FORGET, keys, arguments) == 1)

    def flush(self, *, before: datetime | None = None) -> int:
        end = "+" if before is None else f"({_place(before)}"
        flushed = 0
        while removed := self._connections.call(_FLUSH, self._keys, (end, PAGE)):
            flushed += removed
        return flushed


def _place(instant: datetime) -> str:
    """An instant as text that sorts like instants do."""
    return f"{max(0, as_microseconds(instant)):017d}"


def _jobs(answer: Sequence[bytes]) -> Iterator[FailedJob]:
    return map(_job, answer[::2], answer[1::2])


def _job(record: bytes, claimed_until: bytes) -> FailedJob:
    _token, _place_and_number, rest = record.split(b" ", 2)
    length, _, body = rest.partition(b":")
    values = json.loads(body[int(length) :])
    values["failed_at"] = as_datetime(values["failed_at"])
    return FailedJob(**values, claimed_until=as_datetime(int(claimed_until)) if claimed_until else None)
