"""Attempts on Redis: one text a job, which expires by itself."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from celery_laravel.stores.records import AttemptStart, StartStatus
from celery_laravel.stores.redis.keys import new_token
from celery_laravel.stores.redis.locks import request_arguments
from celery_laravel.stores.redis.scripts import script

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_laravel.stores.records import AttemptEnd, LockRequest
    from celery_laravel.stores.redis.cluster import ClusterConnections
    from celery_laravel.stores.redis.connections import Connections
    from celery_laravel.stores.redis.keys import Keys
    from celery_laravel.stores.redis.locks import RedisLockStore
    from celery_laravel.stores.redis.scripts import Argument

MILLISECOND = timedelta(milliseconds=1)
LEASES_IN_ONE_CALL = 250

_STATUSES = {
    b"started": StartStatus.STARTED,
    b"running": StartStatus.RUNNING,
    b"released": StartStatus.RELEASED,
    b"locked": StartStatus.LOCKED,
    b"over": StartStatus.OVER,
}
_BEGIN, _BEGIN_LOCKED, _PEEK = script("begin"), script("begin_locked"), script("peek")
_END, _RENEW, _FORESTALL = script("end_attempt"), script("renew"), script("forestall")


class RedisAttemptStore:
    """An `AttemptStore` on Redis. `begin` carries a token, so that one whose answer was lost can be repeated.

    On a cluster, an attempt and the lock it needs lie on different nodes, so
    `begin` with a lock takes three calls: whether the attempt could start, the
    lock, the attempt. Should another start it in between, a lock that was taken
    for it is freed again, and one that was held keeps the end it was given.
    """

    def __init__(
        self, connections: Connections | ClusterConnections, keys: Keys, locks: RedisLockStore, *, is_cluster: bool
    ) -> None:
        self._connections = connections
        self._keys = keys
        self._locks = locks
        self._is_cluster = is_cluster
        self._leases_in_one_call = 1 if is_cluster else LEASES_IN_ONE_CALL

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
        lock: LockRequest | None = None,
    ) -> AttemptStart:
        arguments = (turn, attempts, exceptions, owner, lease // MILLISECOND, keep // MILLISECOND, new_token())
        key = self._keys.attempt(job_id)
        if lock is None:
            return _start(self._connections.call(_BEGIN, (key,), arguments))
        if self._is_cluster:
            return self._begin_in_steps(key, arguments, lock)
        keys = (*self._locks.request_keys(lock), key)
        return _start(self._connections.call(_BEGIN_LOCKED, keys, (*arguments, *request_arguments(lock))))

    def _begin_in_steps(self, key: str, arguments: Sequence[Argument], lock: LockRequest) -> AttemptStart:
        refusal = self._connections.call(_PEEK, (key,), arguments)
        if refusal is not None:
            return _start(refusal)
        answer = self._locks.acquire(lock)
        if not answer.acquired:
            return AttemptStart(StartStatus.LOCKED, delay=answer.expires_in or 0.0, holder=answer.owner)
        start = _start(self._connections.call(_BEGIN, (key,), arguments))
        if start.status is not StartStatus.STARTED and not answer.was_held:
            self._locks.release([lock.key], owner=lock.owner)
        return start

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

    def forestall(self, job_id: str, *, keep: timedelta) -> bool:
        answer = self._connections.call(_FORESTALL, (self._keys.attempt(job_id),), (keep // MILLISECOND,))
        return bool(answer == 1)

    def forget(self, job_id: str) -> bool:
        return bool(self._connections.command("DEL", self._keys.attempt(job_id)) == 1)

    def prune(self) -> int:
        return 0


def _start(answer: bytes) -> AttemptStart:
    status, attempt, exceptions, delay, holder = answer.split(b" ", 4)
    return AttemptStart(_STATUSES[status], int(attempt), int(exceptions), int(delay) / 1000, holder.decode())


def end_arguments(end: AttemptEnd, keep: timedelta) -> tuple[Argument, ...]:
    """What the scripts take for the end of a turn."""
    delay = round(end.delay * 1000)
    return end.turn, int(end.is_final), end.attempts, end.exceptions, delay, keep // MILLISECOND
