"""The store on Redis: all capabilities on one set of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_laravel.stores.instants import as_datetime
from celery_laravel.stores.records import StoreCondition
from celery_laravel.stores.redis.attempts import RedisAttemptStore, end_arguments
from celery_laravel.stores.redis.batches import RedisBatchStore
from celery_laravel.stores.redis.cluster import ClusterConnections
from celery_laravel.stores.redis.condition import facts_of
from celery_laravel.stores.redis.connections import Connections
from celery_laravel.stores.redis.debounces import RedisDebounceStore
from celery_laravel.stores.redis.delays import RedisDelayStore
from celery_laravel.stores.redis.failed_jobs import RedisFailedJobStore
from celery_laravel.stores.redis.keys import CLUSTER_SHARDS, Keys
from celery_laravel.stores.redis.limits import RedisLimitStore
from celery_laravel.stores.redis.locks import RedisLockStore
from celery_laravel.stores.redis.scripts import script
from celery_laravel.stores.redis.urls import is_cluster

if TYPE_CHECKING:
    from datetime import timedelta

    from celery_laravel.stores.records import AttemptEnd, BatchChange, MemberEnd

_NOW = script("now")


class RedisStore:
    """A `Store` on Redis 6.2 or later: one server, a master named by sentinels, or a cluster.

    Each method is a script that runs on the server, by the server's clock. It
    connects when it is first used, in each process anew; any number of threads
    and greenlets may use it.

        store = RedisStore("redis://localhost:6379/0")
        store = RedisStore("sentinel://10.0.0.1:26379;sentinel://10.0.0.2:26379?master_name=mymaster")
        store = RedisStore("redis+cluster://10.0.0.1:7000,10.0.0.2:7000", prefix="shop")

    Every call may be repeated, and is when its connection is lost, for about
    three seconds. A server without persistence forgets when it is restarted,
    and one that evicts keys may forget at any time: let it refuse writes
    instead (``maxmemory-policy noeviction``), which is a `StoreUnavailableError`.

    Raises:
        ConfigurationError: The URL cannot be read, or has an option that is not known.
    """

    def __init__(self, url: str, prefix: str = "laravel") -> None:
        self._is_cluster = is_cluster(url)
        connections = ClusterConnections(url) if self._is_cluster else Connections(url)
        self._connections = connections
        self._keys = Keys(prefix, CLUSTER_SHARDS if self._is_cluster else 1)
        self.locks = RedisLockStore(connections, self._keys)
        self.limits = RedisLimitStore(connections, self._keys)
        self.debounces = RedisDebounceStore(connections, self._keys)
        self.delays = RedisDelayStore(connections, self._keys, connections.server)
        self.attempts = RedisAttemptStore(connections, self._keys, self.locks, is_cluster=self._is_cluster)
        self.batches = RedisBatchStore(connections, self._keys)
        self.failed_jobs = RedisFailedJobStore(connections, self._keys)

    @property
    def url(self) -> str:
        """Where the store is, without its password."""
        return self._connections.url

    def settle(self, *, member: MemberEnd | None, attempt: AttemptEnd | None, keep: timedelta) -> BatchChange | None:
        """Count a batch's member and end a turn: one step, but on a cluster two calls, in that order.

        Where there is only the last turn to end, nobody waits for the answer:
        a crash at this very moment leaves at worst an attempt that looks as if it had crashed.
        """
        if member is not None and attempt is not None and not self._is_cluster:
            key = self._keys.attempt(attempt.job_id)
            return self.batches.settle(member, key, end_arguments(attempt, keep))
        change = None if member is None else self.batches.end_member(member)
        if attempt is not None and attempt.is_final:
            self.attempts.end_soon(attempt, keep=keep)
        elif attempt is not None:
            self.attempts.end(attempt, keep=keep)
        return change

    def condition(self) -> StoreCondition:
        now = self._connections.call(_NOW, self._keys.indices[:1], ())
        return StoreCondition(as_datetime(int(now)), **facts_of(self._connections.command))

    def ping(self) -> None:
        """Return when the store answers."""
        self._connections.command("PING")

    def close(self) -> None:
        """Give back connections. The store may be used again; it connects anew."""
        self._connections.close()
