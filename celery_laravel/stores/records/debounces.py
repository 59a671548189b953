"""What is kept of debounced jobs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A dispatch's place among those of the same key: the ``number``-th, from 1, of the ``period``-th.

    ``delay`` is the seconds it is to wait.
    """

    period: int
    number: int
    delay: float = 0.0
