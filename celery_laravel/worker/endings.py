"""Memory that a worker's parent shares with its children: how far each child has come with the end of its job.

A child that is killed tells nothing more, and the parent is told of an end only
when all that follows from it has been done: while the store is away, that may
take minutes. So each child writes down there what its parent must not undo,
under the token of the job's start.
"""

from __future__ import annotations

import mmap
from enum import IntEnum
from hashlib import blake2b

from billiard import current_process


class Ending(IntEnum):
    """What has become of a start. A later one takes the place of an earlier one."""

    SUCCEEDED = 1
    """The code has succeeded, the result is stored and what follows has been sent; the rest is the library's."""
    PUT_BACK = 2
    """The job's next message is on its way."""
    HOOK_CALLED = 3
    """The job has failed, and its ``failed`` hook has returned."""
    ANNOUNCED = 4
    """The job has failed, its record is kept, and everybody has been told."""


_DIGEST = 16
_SIZE = 32
_COUNT = 1024
"""Children that have a place. Those of a larger pool tell nothing."""


class Endings:
    """A place for each child, by its number in the pool: the last start of which it has told something."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE * _COUNT)

    def tell(self, child: int, owner: str, ending: Ending) -> None:
        """Write down, in the child, how far it has come with a start."""
        if child < _COUNT:
            place = child * _SIZE
            self._memory[place : place + _DIGEST + 1] = _digest(owner) + bytes((ending,))

    def find(self, owner: str) -> Ending | None:
        """How far a start has come, whichever child has told so; None where none has."""
        place = self._memory.find(_digest(owner))
        if place < 0 or place % _SIZE:
            return None
        return Ending(self._memory[place + _DIGEST])


_shared: list[Endings] = []


def share() -> None:
    """Make the memory, before the worker makes its children; once a process."""
    if not _shared:
        _shared.append(Endings())


def tell(owner: str, ending: Ending) -> None:
    """Tell the worker's parent how far this process has come with a start; nothing outside of a pool of processes."""
    child = getattr(current_process(), "index", None)
    if child is not None and _shared:
        _shared[0].tell(child, owner, ending)


def told(owner: str) -> Ending | None:
    """What a child has told of a start, or None; asked in the worker's parent when the child is gone or about to be."""
    return _shared[0].find(owner) if _shared else None


def _digest(owner: str) -> bytes:
    return blake2b(owner.encode(), digest_size=_DIGEST).digest()
