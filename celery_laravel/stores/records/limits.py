"""What is kept of limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MICROSECOND = 1e-6
"""Seconds in the shortest time that limits know."""


@dataclass(frozen=True)
class Window:
    """At most ``limit`` (1 or more) starts under ``key`` within each ``seconds`` (a microsecond or more).

    Raises:
        ValueError: The window would never have room, or has no length.
    """

    key: str
    limit: int
    seconds: float

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"window {self.key!r}: limit={self.limit} would never let anything start; give 1 or more")
        if not self.seconds >= MICROSECOND:
            raise ValueError(f"window {self.key!r}: seconds={self.seconds!r} is no length of time; give more than 0")


def limits_by_key(name: str, windows: Sequence[Window]) -> dict[str, int]:
    """The limit of each key that a limiter of this name asks for in one call.

    Raises:
        ValueError: Two windows have the same key.
    """
    limits = {window.key: window.limit for window in windows}
    if len(limits) < len(windows):
        raise ValueError(f"limiter {name!r}: two windows have the same key; give each a key of its own")
    return limits


@dataclass(frozen=True)
class Slot:
    """A start that was counted: under which key, and in the window that begins when (seconds since the epoch)."""

    key: str
    window_start: float


@dataclass(frozen=True)
class LimitAnswer:
    """The answer to a wish to start.

    ``granted``: the start is counted, in ``slots``, one for each window asked
    for. Refused: ``delay`` is the seconds until the caller's own start, which
    is kept for it in ``slots``; without a caller to keep it for, until there
    may be room.
    """

    granted: bool
    delay: float = 0.0
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True)
class WindowState:
    """The starts counted in the current window of a key, and the seconds until it ends; 0 and 0 without one."""

    count: int = 0
    ends_in: float = 0.0
