"""Queues with delayed jobs, as a Laravel worker sees them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(order=True)
class _Delayed(Generic[T]):
    due: float
    number: int
    queue: str = field(compare=False)
    item: T = field(compare=False)


class Queues(Generic[T]):
    """First in, first out. A job that falls due joins behind those that are ready when a worker next looks."""

    def __init__(self) -> None:
        self._ready: defaultdict[str, deque[T]] = defaultdict(deque)
        self._delayed: list[_Delayed[T]] = []
        self._numbers = count()

    def push(self, queue: str, item: T) -> None:
        self._ready[queue].append(item)

    def delay(self, queue: str, item: T, due: float) -> None:
        self._delayed.append(_Delayed(due, next(self._numbers), queue, item))

    def drop_delayed(self, item: T) -> None:
        self._delayed = [waiting for waiting in self._delayed if waiting.item is not item]

    def pop(self, names: Iterable[str], now: float) -> T | None:
        """The next job of the first queue that has one."""
        for name in names:
            self._migrate(name, now)
            if self._ready[name]:
                return self._ready[name].popleft()
        return None

    def next_due(self, names: Iterable[str]) -> float | None:
        """When the next delayed job of these queues falls due."""
        return min((waiting.due for waiting in self._delayed if waiting.queue in set(names)), default=None)

    def lengths(self, name: str, now: float) -> dict[str, int]:
        dues = [waiting.due for waiting in self._delayed if waiting.queue == name]
        late = sum(due <= now for due in dues)
        return {"ready": len(self._ready[name]) + late, "delayed": len(dues) - late, "reserved": 0}

    def all(self) -> list[T]:
        return [item for ready in self._ready.values() for item in ready] + [waiting.item for waiting in self._delayed]

    def _migrate(self, name: str, now: float) -> None:
        due = sorted(waiting for waiting in self._delayed if waiting.queue == name and waiting.due <= now)
        self._ready[name].extend(waiting.item for waiting in due)
        self._delayed = [waiting for waiting in self._delayed if waiting not in due]
