"""Attempts on Redis: one text a job, which expires by itself."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel.stores.records import AttemptStart, StartStatus
from celery_laravel.stores.redis.scripts import script

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_laravel.stores.records import AttemptEnd
    from celery_laravel.stores.redis.cluster import ClusterConnections
    from celery_laravel.stores.redis.connections import Connections
    from celery_laravel.stores.redis.keys import Keys
    from celery_laravel.stores.redis.scripts import Argument

MILLISECOND = timedelta(milliseconds=1)
LEASES_IN_ONE_CALL = 250

_STATUSES = {
    b"started": StartStatus.STARTED,
    b"running": StartStatus.RUNNING,
    b"released": StartStatus.RELEASED,
    b"over": StartStatus.OVER,
}
_BEGIN, _END, _RENEW = script("begin"), script("end_attempt"), script("renew")


class RedisAttemptStore:
    """An `AttemptStore` on Redis. `begin` carries a token, so that one whose answer was lost can be repeated."""

    def __init__(self, connections: Connections | ClusterConnections, keys: Keys, *, leases_in_one_call: int) -> None:
        self._connections = connections
        self._keys = keys
        self._leases_in_one_call = leases_in_one_call

    def begin(
        self,
        job_id: str,
        *,
        turn: int,
        attempts: int,
        exceptions: int,
        owner: str,
        lease: timedelta,
        keep: timedelta,
    ) -> AttemptStart:
        arguments = (turn, attempts, exceptions, owner, lease // MILLISECOND, keep // MILLISECOND, os.urandom(8).hex())
        answer: bytes = self._connections.call(_BEGIN, (self._keys.attempt(job_id),), arguments)
        status, attempt, counted, delay = answer.split()
        return AttemptStart(_STATUSES[status], int(attempt), int(counted), int(delay) / 1000)

    def end(self, end: AttemptEnd, *, keep: timedelta) -> bool:
        answer = self._connections.call(_END, (self._keys.attempt(end.job_id),), end_arguments(end, keep))
        return bool(answer == 1)

    def end_soon(self, end: AttemptEnd, *, keep: timedelta) -> None:
        """`end`, without waiting for the answer; until it is in, a copy of the message may start once more."""
        self._connections.post(_END, (self._keys.attempt(end.job_id),), end_arguments(end, keep))

    def renew(self, owners: Mapping[str, str], *, lease: timedelta) -> frozenset[str]:
        held: list[str] = []
        jobs = list(owners)
        for start in range(0, len(jobs), self._leases_in_one_call):
            some = jobs[start : start + self._leases_in_one_call]
            keys = [self._keys.attempt(job_id) for job_id in some]
            flags = self._connections.call(_RENEW, keys, [lease // MILLISECOND, *(owners[job_id] for job_id in some)])
            held += [job_id for job_id, flag in zip(some, flags, strict=True) if flag == ord("1")]
        return frozenset(held)

    def forget(self, job_id: str) -> bool:
        return bool(self._connections.command("DEL", self._keys.attempt(job_id)) == 1)

    def prune(self) -> int:
        return 0


def end_arguments(end: AttemptEnd, keep: timedelta) -> tuple[Argument, ...]:
    """What the scripts take for the end of a turn."""
    delay = round(end.delay * 1000)
    return end.turn, int(end.is_final), end.attempts, end.exceptions, delay, keep // MILLISECOND
