"""Memory that a worker's parent shares with its children: which member of a pack runs, and which must not.

A child that is killed, or whose interpreter is blocked, tells its parent nothing
more. So each pack has a slot in memory that was shared before the children were
made. The child writes there which member it runs, and since when; the parent
which members have been revoked.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections import deque
from typing import NamedTuple

from celery_laravel.message.packs import MOST

_RUNNING = struct.Struct("<Id")
_FLAGS = 16
_SIZE = _FLAGS + MOST + 8
_COUNT = 256
"""Packs that a worker may hold at a time; those beyond have no slot, and go without what it is for."""


class Progress(NamedTuple):
    """The member that runs, by its position, and when it began by the machine's monotonic clock."""

    position: int
    since: float


class Slots:
    """All slots of one worker. Those that were free longest are given out first, as a child may be slow to die."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE * _COUNT)
        self._free = deque(range(_COUNT))

    def take(self) -> int | None:
        """A slot of one's own, cleared, or None when there is none left."""
        try:
            slot = self._free.popleft()
        except IndexError:
            return None
        self._memory[slot * _SIZE : (slot + 1) * _SIZE] = bytes(_SIZE)
        return slot

    def give_back(self, slot: int) -> None:
        """Let somebody else have a slot."""
        self._free.append(slot)

    def begin(self, slot: int, position: int) -> None:
        """Note that a member begins."""
        _RUNNING.pack_into(self._memory, slot * _SIZE, 0, time.monotonic())
        _RUNNING.pack_into(self._memory, slot * _SIZE, position + 1, time.monotonic())

    def end(self, slot: int) -> None:
        """Note that no member runs."""
        _RUNNING.pack_into(self._memory, slot * _SIZE, 0, 0.0)

    def progress(self, slot: int) -> Progress | None:
        """Which member runs, or None while none does or the next is about to begin."""
        before = _RUNNING.unpack_from(self._memory, slot * _SIZE)
        after = _RUNNING.unpack_from(self._memory, slot * _SIZE)
        if before != after or not before[0]:
            return None
        return Progress(before[0] - 1, before[1])

    def revoke(self, slot: int, position: int) -> None:
        """Say that a member must not begin."""
        self._memory[slot * _SIZE + _FLAGS + position] = 1

    def is_revoked(self, slot: int, position: int) -> bool:
        """Whether a member must not begin."""
        return bool(self._memory[slot * _SIZE + _FLAGS + position])


_shared: list[Slots] = []


def share() -> None:
    """Make the memory, before the worker makes its children; once a process."""
    if not _shared:
        _shared.append(Slots())


def shared() -> Slots | None:
    """The memory that this process shares, or None in one that is not a worker's."""
    return _shared[0] if _shared else None
