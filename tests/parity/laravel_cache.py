"""The model of Laravel's cache: locks and counters that expire."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass
class _Hold:
    owner: object
    expires: float | None


class Locks:
    """Locks by key; whose hold has expired holds nothing."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._holds: dict[tuple[str, ...], _Hold] = {}

    def take(self, key: tuple[str, ...], owner: object, seconds: float | None) -> bool:
        """Take a free lock for so long, None for ever; False if it is held, whoever holds it."""
        if self.owner(key) is not None:
            return False
        self._holds[key] = _Hold(owner, None if seconds is None else self._now() + seconds)
        return True

    def owner(self, key: tuple[str, ...]) -> object | None:
        hold = self._holds.get(key)
        if hold is None or (hold.expires is not None and hold.expires <= self._now()):
            return None
        return hold.owner

    def expire_leases(self, owner: object, seconds: float) -> None:
        """Let an owner's holds that have no end of their own end so many seconds from now."""
        for hold in self._holds.values():
            if hold.owner is owner and hold.expires is None:
                hold.expires = self._now() + seconds

    def expires_in(self, key: tuple[str, ...]) -> float | None:
        """Seconds until a hold ends by itself, None for never."""
        expires = self._holds[key].expires
        return None if expires is None else expires - self._now()

    def extend(self, key: tuple[str, ...], seconds: float | None = None) -> None:
        """Let a hold last for so long from now, None for ever."""
        self._holds[key].expires = None if seconds is None else self._now() + seconds

    def free(self, key: tuple[str, ...], owner: object | None = None) -> None:
        """Free a lock, if ``owner`` holds it; without one, whoever does."""
        if owner is None or self.owner(key) is owner:
            self._holds.pop(key, None)

    def held(self) -> list[tuple[str, ...]]:
        return [key for key in self._holds if self.owner(key) is not None]


class Hits:
    """Counters in windows that their first hit opens."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._windows: dict[Hashable, tuple[float, int]] = {}

    def count(self, key: Hashable) -> int:
        ends, count = self._windows.get(key, (0.0, 0))
        return count if ends > self._now() else 0

    def ends_in(self, key: Hashable) -> float:
        return self._windows[key][0] - self._now()

    def hit(self, key: Hashable, seconds: float) -> None:
        if self.count(key):
            ends, count = self._windows[key]
            self._windows[key] = (ends, count + 1)
        else:
            self._windows[key] = (self._now() + seconds, 1)

    def clear(self, key: Hashable) -> None:
        self._windows.pop(key, None)
