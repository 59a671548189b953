"""A pack's message in the worker's parent: limits, revocations, and processes that die, member by member."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
import weakref
from typing import TYPE_CHECKING, Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.app.task import Context
from celery.exceptions import TaskRevokedError
from celery.worker import state
from celery.worker.strategy import default

from celery_laravel.attempt.ownership import owner_beside
from celery_laravel.attempt.packed import PackTerms, write_terms
from celery_laravel.errors import InvalidMessageError
from celery_laravel.message.packs import Pack, read_pack
from celery_laravel.worker import leases, pack_ends
from celery_laravel.worker.defaults import defaults_of, timeout_of
from celery_laravel.worker.endings import Ending, told
from celery_laravel.worker.pack_slots import shared
from celery_laravel.worker.request import JobRequest
from celery_laravel.worker.strategy import twin_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_laravel.message.packs import Kind, Packed

logger = logging.getLogger(__name__)

Limits = tuple["float | None", "float | None"]

_SPARE = 60.0
"""Seconds that a pack as a whole may take beyond the limits of its members, which end them one by one."""

_on_their_way: weakref.WeakSet[PackRequest] = weakref.WeakSet()


def pack_strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """The handler of the messages of packs: Celery's own, with the limits that hold in this worker."""
    twin = twin_of(task)
    controller = getattr(consumer, "controller", None)
    twin.limits_of_worker = (getattr(controller, "time_limit", None), getattr(controller, "soft_time_limit", None))
    return default(twin, app, consumer, **options)  # type: ignore[no-any-return]


def look_after_packs() -> None:
    """Tell the children what has been revoked, and kill those whose member is over its hard limit."""
    for request in list(_on_their_way):
        request.look()


class PackRequest(JobRequest):
    """The request of a pack. While its child runs, it is known which member that is about.

    A member over its hard limit fails, and its process is killed; the pack
    comes again for the rest. When a process dies by itself, the pack comes again
    too, and the child that gets it takes it apart.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pack = Pack("", ())
        with contextlib.suppress(InvalidMessageError, TypeError):  # the child will say so
            self._pack = read_pack(**self.kwargs, carrier=self.request_dict)
        limits = {kind: _limits_of(self, kind) for kind in {member.kind for member in self._pack.members}}
        self._limits = [limits[member.kind] for member in self._pack.members]
        self._over_limit: tuple[Packed, float] | None = None
        self._revoked: set[str] = set()
        self._slots = shared()
        self._slot = None if self._slots is None else self._slots.take()
        if self._slots is not None and self._slot is not None:
            weakref.finalize(self, self._slots.give_back, self._slot)
            _on_their_way.add(self)
        hard, soft = getattr(self.task, "limits_of_worker", (None, None))
        if hard or soft:  # which are meant for one job
            self.time_limits = (_sum_of(self._limits, 0), _sum_of(self._limits, 1))
        self._tell_revoked()
        write_terms(self.request_dict, self._terms())

    @property
    def jobs(self) -> list[tuple[str, str | None]]:
        """The ids of its members, each with that of the batch."""
        return [(member.id, self._pack.batch_id) for member in self._pack.members]

    def look(self) -> None:
        """See to what is asked of the members while the pack is in the worker."""
        self._tell_revoked()
        running = self._running()
        if running is None:
            return
        member, since = running
        self._hold_for(member)
        limit = self._limits[member.position][0]
        is_child = leases.is_process(self.worker_pid) and self.worker_pid != os.getpid()
        if limit and is_child and time.monotonic() - since > limit and self._over_limit is None:
            self._over_limit = (member, limit)
            logger.error("Hard time limit (%ss) exceeded for %s[%s]", limit, member.task, member.id)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.worker_pid, signal.SIGKILL)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Settle a member that was over its hard limit, whose process is gone now, before the rest comes again."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, TimeLimitExceeded):  # the pack's own, which is longer than its members' together
            self.reject(requeue=True)
            return
        if isinstance(error, WorkerLostError):
            running = self._running()
            if running is not None:
                self._hold_for(running[0])
            if self._over_limit is not None:
                self._killed_for_limit(*self._over_limit, None if running is None else running[0])
        super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Take note that the process is killed; `on_failure` has seen to it that the pack comes again."""
        if soft:
            super().on_timeout(soft, timeout)
            return
        logger.error("Hard time limit (%ss) exceeded for %s[%s]", timeout, self.name, self.id)
        state.task_ready(self)
        leases.leave(self)

    def _killed_for_limit(self, member: Packed, limit: float, running: Packed | None) -> None:
        """Fail the member, unless it had ended when the process was killed; the pack is as good as it was."""
        error = TimeLimitExceeded(limit)
        task = self.app.tasks[member.task]
        try:
            self.task.forgive_crash(self._context)
            if running is None or running.position != member.position:
                return
            ending = told(owner_beside(self.lease_owners[0], member.id))
            if ending is Ending.PUT_BACK:
                return
            if ending is Ending.SUCCEEDED:
                task.settle_without_child(Context(member.request), None)
                return
            pack_ends.fail(task, member, error, told=ending)
        except Exception:
            logger.exception("Job %s (%s), over its hard time limit, could not be settled", member.id, member.task)
        if self.eventer and self.eventer.enabled and task.send_events:
            self.eventer.send("task-failed", uuid=member.id, exception=repr(error), traceback="")

    def _end_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        """Settle all members of a pack that was itself revoked, save those that have ended."""
        super()._end_revoked(reason, terminated, signum, expired)
        self._revoke_members(reason)

    def _revoke_members(self, reason: str) -> None:
        try:
            outstanding = self.task.outstanding_in(self._pack)
        except Exception:
            logger.exception("The members of pack %s, which was revoked, could not be settled", self.id)
            return
        for member in outstanding:
            try:
                pack_ends.revoke(self.app.tasks[member.task], member, TaskRevokedError(reason))
            except Exception:
                logger.exception("Job %s (%s), whose pack was revoked, could not be settled", member.id, member.task)

    def _running(self) -> tuple[Packed, float] | None:
        """The member that the child runs, and since when."""
        if self._slots is None or self._slot is None:
            return None
        progress = self._slots.progress(self._slot)
        if progress is None or progress.position >= len(self._pack.members):
            return None
        return self._pack.members[progress.position], progress.since

    def _hold_for(self, member: Packed) -> None:
        """Renew, and end, what the running member holds along with the pack's own lease."""
        own = self.attempt.get(self.id)
        if own is None:
            return
        owner = owner_beside(own, member.id)
        self.attempt = {self.id: own, member.id: owner}
        self.lease_owners = (own, owner)
        unlocks = getattr(self.app.tasks.get(member.task), "job_options", None)
        self.kept_alive = (own, owner, member.id) if unlocks is not None and unlocks.unique else (own, owner)

    def _tell_revoked(self) -> None:
        if self._slots is None or self._slot is None or not len(state.revoked):
            return
        for member in self._pack.members:
            if member.id not in self._revoked and member.id in state.revoked:
                self._revoked.add(member.id)
                self._slots.revoke(self._slot, member.position)

    def _terms(self) -> PackTerms:
        soft = [limit for _, limit in self._limits]
        sends_events = bool(self.eventer and self.eventer.enabled)
        return PackTerms(os.getpid(), self._slot, sends_events, soft if any(soft) else ())


def _limits_of(request: PackRequest, kind: Kind) -> Limits:
    """The hard and soft limit of members: their message's, else their task's, else the worker's."""
    hard, soft = kind.time_limits
    task: Any = request.app.tasks.get(kind.task)
    of_worker: Limits = getattr(request.task, "limits_of_worker", (None, None))
    options = getattr(task, "job_options", None)
    timeout = None if options is None else timeout_of(options, defaults_of(request.app))
    return (
        hard or getattr(task, "time_limit", None) or of_worker[0],
        soft or timeout or getattr(task, "soft_time_limit", None) or of_worker[1],
    )


def _sum_of(limits: Sequence[Limits], which: int) -> float:
    return sum(limit[which] or 0.0 for limit in limits) + _SPARE
