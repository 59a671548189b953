"""What a fork does with the databases of a process: it waits for them, and leaves them behind in the child."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What has to be known of a database when its process forks."""

    lock: threading.RLock
    """Held while a statement is under way."""

    def leave_behind(self) -> None:
        """In the child: forget what is the parent's, without closing it, and take a lock of one's own."""


registry_lock = threading.RLock()
"""Held while databases are opened and closed."""
# Also those that have been given back: a late acknowledgement opens such a one again.
all_databases: weakref.WeakSet[Forkable] = weakref.WeakSet()
left_behind: list[object] = []
"""What is the parent's, kept so that nothing closes it."""
_held_for_fork: list[threading.RLock] = []


def _before_fork() -> None:
    # SQLite's own mutexes are held inside a statement: a child forked then could never use SQLite.
    registry_lock.acquire()
    for database in tuple(all_databases):
        database.lock.acquire()
        _held_for_fork.append(database.lock)


def _after_fork_in_parent() -> None:
    while _held_for_fork:
        _held_for_fork.pop().release()
    registry_lock.release()


def _after_fork_in_child() -> None:
    _held_for_fork.clear()
    for database in tuple(all_databases):
        database.leave_behind()
    registry_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
