"""How a store is doing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class Persistence(str, Enum):
    """What becomes of the records when the server is stopped and started."""

    KEPT = "kept"
    SNAPSHOTS = "snapshots"
    """Those since the last snapshot are lost."""
    NONE = "none"
    UNKNOWN = "unknown"
    """The server does not tell."""


@dataclass(frozen=True)
class StoreCondition:
    """How a store is doing, for whoever looks for the cause of trouble.

    ``now`` is the time by which it goes. ``eviction`` names the policy by which
    the server throws records away when its memory is full, and is empty when it
    throws none away. ``refusal`` says why it takes no changes, ``pending_migrations``
    are those that its tables lack, ``is_private`` says that no other process sees it.
    """

    now: datetime
    persistence: Persistence = Persistence.KEPT
    eviction: str = ""
    refusal: str = ""
    pending_migrations: tuple[str, ...] = ()
    is_private: bool = False
