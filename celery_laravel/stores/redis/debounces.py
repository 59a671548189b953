"""Debounced jobs on Redis: a hash of periods a key, which expires by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_laravel.stores.instants import MICROSECOND, SECOND
from celery_laravel.stores.records import Place
from celery_laravel.stores.redis.scripts import script

if TYPE_CHECKING:
    from datetime import timedelta

    from celery_laravel.stores.redis.cluster import ClusterConnections
    from celery_laravel.stores.redis.connections import Connections
    from celery_laravel.stores.redis.keys import Keys

_RESERVE, _CONFIRM, _START = script("reserve_place"), script("confirm_place"), script("start_place")


class RedisDebounceStore:
    """A `DebounceStore` on Redis."""

    def __init__(self, connections: Connections | ClusterConnections, keys: Keys) -> None:
        self._connections = connections
        self._keys = keys

    def reserve(self, key: str, *, wait: timedelta, max_wait: timedelta | None, keep: timedelta) -> Place:
        longest = "-" if max_wait is None else max_wait // MICROSECOND
        arguments = (wait // MICROSECOND, longest, keep // MICROSECOND)
        period, number, delay = self._connections.call(_RESERVE, (self._keys.debounce(key),), arguments).split()
        return Place(int(period), int(number), int(delay) / SECOND)

    def confirm(self, key: str, place: Place, *, job_id: str, keep: timedelta) -> None:
        arguments = (place.period, place.number, job_id, keep // MICROSECOND)
        self._connections.call(_CONFIRM, (self._keys.debounce(key),), arguments)

    def start(self, key: str, place: Place) -> str | None:
        answer = self._connections.call(_START, (self._keys.debounce(key),), (place.period, place.number))
        return None if answer is None else str(answer.decode())

    def prune(self) -> int:
        return 0
