# ruff: noqa: D102  what the model does is what the names say
"""A model of limits in plain lists, to compare a `LimitStore` with."""

from __future__ import annotations

from dataclasses import dataclass, field

SECOND = 1_000_000
LIMITS = {"short": 2, "odd": 1, "long": 3}


@dataclass
class Model:
    """One key: where its windows begin, in which of them starts are counted, and in which whose start is kept.

    The starts are a plain list of (window, was it granted), and the first
    window with room is found by trying one after another. Starts that are kept
    are alike: whose a start is matters only by how many are left in its window.
    All is in microseconds.
    """

    anchor: int
    length: int
    starts: list[tuple[int, bool]] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)

    def window(self, instant: int) -> int:
        return (instant - self.anchor) // self.length

    def count(self, window: int) -> int:
        return self.starts.count((window, True)) + self.starts.count((window, False))

    def is_unclaimed(self, window: int) -> bool:
        return (window, False) in self.starts

    def forget_before(self, now: int) -> None:
        present = self.window(now)
        self.starts = [start for start in self.starts if start[0] >= present]
        self.kept = {caller: window for caller, window in self.kept.items() if window >= present}

    def start(self, window: int) -> None:
        self.starts.append((window, True))

    def keep(self, window: int, caller: str) -> None:
        self.starts.append((window, False))
        self.kept[caller] = window

    def claim(self, window: int) -> None:
        self.starts.remove((window, False))
        self.starts.append((window, True))

    def start_late(self, window: int, limit: int) -> None:
        if self.count(window) < limit:
            self.start(window)
        else:
            self.claim(window)

    def drop_kept(self, caller: str) -> None:
        window = self.kept.pop(caller, None)
        if window is not None and self.is_unclaimed(window):
            self.starts.remove((window, False))

    def slot(self, window: int) -> int:
        return self.anchor + window * self.length


def first_with_room(models: dict[str, Model], now: int) -> int:
    """The first instant at which all windows have room, found by trying the beginning of each that has none."""
    instant = now
    while full := [key for key, model in models.items() if model.count(model.window(instant)) >= LIMITS[key]]:
        model = models[full[0]]
        instant = model.slot(model.window(instant) + 1)
    return instant
