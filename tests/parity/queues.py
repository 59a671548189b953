"""Queues with delayed and reserved jobs, as a Laravel worker sees them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

RESERVED_FOR = 90
"""Seconds after which a job that was taken and is not done is available again."""


@dataclass(order=True)
class _Waiting(Generic[T]):
    due: float
    number: int
    queue: str = field(compare=False)
    item: T = field(compare=False)


class Queues(Generic[T]):
    """First in, first out. What falls due, or was reserved too long, joins behind those that are ready."""

    def __init__(self) -> None:
        self._ready: defaultdict[str, deque[T]] = defaultdict(deque)
        self._delayed: list[_Waiting[T]] = []
        self._reserved: list[_Waiting[T]] = []
        self._numbers = count()

    def push(self, queue: str, item: T) -> None:
        self._ready[queue].append(item)

    def delay(self, queue: str, item: T, due: float) -> None:
        self._delayed.append(_Waiting(due, next(self._numbers), queue, item))

    def drop_delayed(self, item: T) -> None:
        self._delayed = [waiting for waiting in self._delayed if waiting.item is not item]

    def pop(self, names: Iterable[str], now: float) -> T | None:
        """Reserve the next job of the first queue that has one."""
        for name in names:
            self._migrate(name, now)
            if self._ready[name]:
                item = self._ready[name].popleft()
                self._reserved.append(_Waiting(now + RESERVED_FOR, next(self._numbers), name, item))
                return item
        return None

    def done(self, item: T) -> None:
        """Forget that a job was reserved."""
        self._reserved = [taken for taken in self._reserved if taken.item is not item]

    def is_ready(self, item: T) -> bool:
        """Whether a job waits for nothing but a worker; one that was reserved too long counts when somebody looked."""
        return any(other is item for ready in self._ready.values() for other in ready)

    def next_due(self, names: Iterable[str]) -> float | None:
        """When the next delayed or reserved job of these queues is available."""
        return min(
            (waiting.due for waiting in (*self._delayed, *self._reserved) if waiting.queue in set(names)), default=None
        )

    def lengths(self, name: str, now: float) -> dict[str, int]:
        dues = [waiting.due for waiting in self._delayed if waiting.queue == name]
        late = sum(due <= now for due in dues)
        reserved = sum(taken.queue == name for taken in self._reserved)
        return {"ready": len(self._ready[name]) + late, "delayed": len(dues) - late, "reserved": reserved}

    def all(self) -> list[T]:
        waiting = [entry.item for entry in (*self._delayed, *self._reserved)]
        return [item for ready in self._ready.values() for item in ready] + waiting

    def _migrate(self, name: str, now: float) -> None:
        for entries in (self._delayed, self._reserved):
            due = sorted(entry for entry in entries if entry.queue == name and entry.due <= now)
            self._ready[name].extend(entry.item for entry in due)
            entries[:] = [entry for entry in entries if entry not in due]
