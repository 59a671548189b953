"""Limits on Redis: for each key a hash of counts, the runs of its full windows, and the callers that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_laravel.stores.instants import SECOND
from celery_laravel.stores.records import LimitAnswer, Slot, WindowState, limits_by_key
from celery_laravel.stores.redis.keys import MEMORY_OF_CALLS
from celery_laravel.stores.redis.scripts import script

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from celery_laravel.stores.records import Window
    from celery_laravel.stores.redis.cluster import ClusterConnections
    from celery_laravel.stores.redis.connections import Connections
    from celery_laravel.stores.redis.keys import Keys
    from celery_laravel.stores.redis.scripts import Argument

_TAKE, _GIVE_BACK, _CANCEL = script("take"), script("give_back"), script("cancel_kept")
_HIT, _LOOK, _CLEAR = script("hit"), script("look"), script("clear_limit")


class RedisLimitStore:
    """A `LimitStore` on Redis. The keys of one limiter lie together, on one node of a cluster."""

    def __init__(self, connections: Connections | ClusterConnections, keys: Keys) -> None:
        self._connections = connections
        self._keys = keys

    def take(
        self, name: str, windows: Sequence[Window], *, caller: str | None = None, is_overdue: bool = False
    ) -> LimitAnswer:
        limits_by_key(name, windows)  # refuses two of the same key
        arguments: list[Argument] = [MEMORY_OF_CALLS, 0 if caller is None else 1 + is_overdue, caller or ""]
        for window in windows:
            arguments += [window.limit, round(window.seconds * SECOND)]
        keys = self._with_memory(name, (window.key for window in windows))
        granted, delay, *starts = self._connections.call(_TAKE, keys, arguments).split()
        slots = zip(windows, starts, strict=False)  # no starts when nothing was counted
        return LimitAnswer(
            granted == b"1",
            int(delay) / SECOND,
            tuple(Slot(window.key, int(start) / SECOND) for window, start in slots),
        )

    def give_back(self, name: str, slots: Sequence[Slot]) -> None:
        if slots:
            starts = [round(slot.window_start * SECOND) for slot in slots]
            keys = self._with_memory(name, (slot.key for slot in slots))
            self._connections.call(_GIVE_BACK, keys, (MEMORY_OF_CALLS, *starts))

    def cancel(self, name: str, keys: Sequence[str], *, caller: str) -> None:
        if keys:
            self._connections.call(_CANCEL, self._grids(name, keys), (caller,))

    def hit(self, name: str, key: str, *, seconds: float) -> int:
        keys = self._with_memory(name, [key])
        return int(self._connections.call(_HIT, keys, (MEMORY_OF_CALLS, round(seconds * SECOND))))

    def look(self, name: str, key: str) -> WindowState:
        count, ends_in = self._connections.call(_LOOK, self._keys.limit(name, key), ())
        return WindowState(count, int(ends_in) / SECOND)

    def clear(self, name: str, key: str) -> bool:
        return bool(self._connections.call(_CLEAR, self._with_memory(name, [key]), (MEMORY_OF_CALLS,)) == 1)

    def prune(self) -> int:
        return 0

    def _with_memory(self, name: str, keys: Iterable[str]) -> list[str]:
        return [self._keys.limit_call(name), *self._grids(name, keys)]

    def _grids(self, name: str, keys: Iterable[str]) -> list[str]:
        return [part for key in keys for part in self._keys.limit(name, key)]
