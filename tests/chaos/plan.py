"""Where the next process is to be killed: agreed upon in a Redis of the tests' own, so that it happens once.

Every process of a lab tells of the points it comes to (`celery_laravel.testing.faults`,
and those in the code of jobs). A plan numbers them as they come, whichever process
they are in, and the process that comes to the chosen one is killed there: alone,
or with all of its worker.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

IGNORED = ("batches.due:", "attempts.renew:", "locks.renew:", "batches.find:", "store.ping:")
"""Calls that come by the clock, or that change nothing: they would make the numbering depend on luck."""

# Count a point and say what is to happen there.
# KEYS[1] the plan   KEYS[2] the trail   ARGV[1] the point   ARGV[2] this process
# Returns how to kill, or nothing.
_REACH = """
if redis.call("EXISTS", KEYS[1]) == 0 then return false end
local number = redis.call("HINCRBY", KEYS[1], "count", 1)
local how = redis.call("HGET", KEYS[1], "how")
local dies = number == tonumber(redis.call("HGET", KEYS[1], "at"))
redis.call("RPUSH", KEYS[2], ARGV[2] .. " " .. ARGV[1] .. (dies and " !" or ""))
return dies and how
"""


@dataclass(frozen=True)
class Step:
    """A point that a process of a worker came to; ``killed``: and got no further."""

    pid: int
    worker: int
    point: str
    killed: bool


class Plan:
    """The plan of one lab, seen from the test and from the processes of its workers."""

    def __init__(self, client: Any, lab: str) -> None:
        self._client = client
        self._key, self._trail = f"plan:{lab}", f"trail:{lab}"
        self._reach = client.register_script(_REACH)

    def begin(self, at: int = 0, how: str = "child") -> None:
        """Number the points from 1, and kill whoever comes to number ``at``, or all of its worker; 0 kills nobody."""
        with self._client.pipeline() as pipe:
            pipe.delete(self._key, self._trail)
            pipe.hset(self._key, mapping={"at": at, "how": how, "count": 0})
            pipe.execute()

    def trail(self) -> list[Step]:
        """The points that were come to, in order."""
        steps = []
        for line in self._client.lrange(self._trail, 0, -1):
            pid, worker, point, *rest = line.split()
            steps.append(Step(int(pid), int(worker), point, bool(rest)))
        return steps

    def end(self) -> None:
        """Count nothing and kill nobody any more."""
        self._client.delete(self._key)

    def reach(self, point: str) -> None:
        """Come to a point, in a process of a worker."""
        if point.startswith(IGNORED):
            return
        how = self._reach(keys=[self._key, self._trail], args=[point, f"{os.getpid()} {os.getsid(0)}"])
        if how == "child":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "worker":
            os.killpg(os.getsid(0), signal.SIGKILL)  # the worker is the leader of its session and of its group
