"""What was found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime


class Level(str, Enum):
    """How bad it is."""

    PROBLEM = "problem"
    NOTE = "note"
    """Worth knowing, and nothing that has to be mended."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found: what it is, since when, and what to do about it.

    ``check`` is a word for scripts, which stays.
    """

    check: str
    problem: str
    advice: str
    level: Level = Level.PROBLEM
    since: datetime | None = None
    batch_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The finding as values that JSON can carry."""
        return {
            "check": self.check,
            "level": self.level.value,
            "problem": self.problem,
            "since": None if self.since is None else self.since.isoformat(),
            "advice": self.advice,
            "batch_id": self.batch_id,
        }
