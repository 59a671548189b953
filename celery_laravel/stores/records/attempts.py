"""What is kept of attempts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class StartStatus(str, Enum):
    """What became of the wish to start an attempt."""

    STARTED = "started"
    RUNNING = "running"
    """Another copy of the job runs and its lease is alive."""
    RELEASED = "released"
    """This turn ended with the job put back, and nobody has seen the next: its message may have to be sent again."""
    LOCKED = "locked"
    """The lock that the attempt needs is held by another owner."""
    OVER = "over"
    """The job has ended for good, or is already at a later turn: the message is a late copy."""


@dataclass(frozen=True)
class AttemptStart:
    """The answer of `AttemptStore.begin`.

    ``attempt`` and ``exceptions`` are, for STARTED, the number of this attempt
    (from 1) and the exceptions counted so far; for RELEASED, the attempts and
    exceptions that the next turn's message carries, and ``delay`` the seconds
    until it is due; for RUNNING, ``delay`` is how long the other copy's lease
    still lasts; for LOCKED, how long the hold lasts unless it is freed or
    extended (0 for ever), and ``holder`` its owner.
    """

    status: StartStatus
    attempt: int = 0
    exceptions: int = 0
    delay: float = 0.0
    holder: str = ""


@dataclass(frozen=True)
class AttemptEnd:
    """The end of a turn: the job has ended for good, or goes on with ``next_turn``.

    A job that goes on says with how many ``attempts`` and ``exceptions``
    behind it, and after which ``delay`` in seconds.
    """

    job_id: str
    turn: int
    is_final: bool
    attempts: int = 0
    exceptions: int = 0
    delay: float = 0.0
