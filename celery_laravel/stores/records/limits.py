"""What is kept of limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """At most ``limit`` (1 or more) starts under ``key`` within each ``seconds`` (above 0)."""

    key: str
    limit: int
    seconds: float


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
