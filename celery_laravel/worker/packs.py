"""Packs where they are run: member after member, each traced by Celery as if it had come in a message of its own."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from celery.app.trace import TraceInfo, trace_ok_t, trace_task
from celery.canvas import Signature
from celery.exceptions import Reject, TaskRevokedError
from celery.states import REJECTED

from celery_laravel.attempt.ownership import name_owner, owner_beside, owner_of
from celery_laravel.attempt.packed import PackPlace, terms_of, with_place
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.message.header import read_header
from celery_laravel.message.packs import CARRIER
from celery_laravel.message.resend import resend, send_again
from celery_laravel.worker.debts import PATIENCE, Debt
from celery_laravel.worker.pack_ends import fail, revoke
from celery_laravel.worker.pack_events import PackEvents, events_of
from celery_laravel.worker.pack_slots import shared
from celery_laravel.worker.soft_limit import soft_limit
from celery_laravel.worker.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from celery import Celery

    from celery_laravel.attempt.packed import PackTerms
    from celery_laravel.message.packs import Pack, Packed
    from celery_laravel.stores.contracts import Store
    from celery_laravel.worker.batch import BatchCallbacks
    from celery_laravel.worker.debts import Debts

logger = logging.getLogger(__name__)


class PackRunner:
    """Runs packs: their members one after another, or what is left of them after a crash as messages of their own."""

    def __init__(self, app: Celery, store: Callable[[], Store], callbacks: BatchCallbacks, debts: Debts) -> None:
        self._app = app
        self._store = store
        self._callbacks = callbacks
        self._debts = debts

    def run(self, pack: Pack, request: Any, *, is_first: bool, has_crashed: bool) -> None:
        """Run a pack, ``request`` being its carrier's.

        ``is_first``: this is the pack's first message, and it has come for the
        first time, so that no member can have begun. ``has_crashed``: a process
        died while it ran the pack. Any of the members may be why, so none is run
        beside others any more.

        Raises:
            Exception: Not all members could be run, or sent on. Those that have
                been are left out when the pack comes again.
        """
        ended = self._ended(pack) if has_crashed or not is_first else frozenset()
        outstanding = [member for member in pack.members if member.index not in ended]
        if has_crashed:
            logger.warning(
                "A process died that ran %d jobs of batch %s; the %d that have not ended go on one by one",
                len(pack.members),
                pack.batch_id,
                len(outstanding),
            )
            self._send_alone(outstanding)
            return
        terms = terms_of(request)
        tally = Tally(lambda indices: self._count(pack.batch_id, indices), name=pack.batch_id)
        place = PackPlace(tally.add, is_again=not is_first)
        try:
            with events_of(self._app, request.hostname, enabled=terms.sends_events) as events:
                run = _Run(self._app, request, terms, place, events)
                stranded = [member for member in outstanding if run.comes_again(member)]
        finally:
            self._close(tally, pack, request)
        self._send_alone(stranded)

    def _ended(self, pack: Pack) -> frozenset[int]:
        return self._store().batches.ended(pack.batch_id, [member.index for member in pack.members])

    def _close(self, tally: Tally, pack: Pack, request: Any) -> None:
        """Have the last successes counted, by whoever can be had: the store, or the broker until that is back.

        All of them at once: each try of a store that is away takes seconds.
        """
        try:
            tally.close()
        except StoreUnavailableError:
            debt = Debt(request.id, CARRIER, batch_id=pack.batch_id, succeeded=tuple(tally.waiting))
            self._debts.pay_surely(debt, request, patience=PATIENCE, gives_up=False)

    def _count(self, batch_id: str, indices: Sequence[int]) -> None:
        self._callbacks.after(self._store().batches.end_members(batch_id, indices))

    def _send_alone(self, members: Iterable[Packed]) -> None:
        """Send members on in messages of their own; their starts are counted from there on."""
        for member in members:
            task = self._app.tasks.get(member.task, self._app.tasks[CARRIER])
            context = Context(member.request)
            header = replace(read_header(context.headers), is_counted=True)
            signature = resend(task, context, header)
            if task.name != member.task:
                signature = Signature.from_dict({**signature, "task": member.task}, app=self._app)
            send_again(task, signature, header)


class _Run:
    """One run of one pack."""

    def __init__(self, app: Celery, request: Any, terms: PackTerms, place: PackPlace, events: PackEvents) -> None:
        self._app = app
        self._place = place
        self._events = events
        self._owner = owner_of(request)
        self._slot = terms.slot
        self._slots = shared() if self._slot is not None else None
        is_child = terms.parent not in {None, os.getpid()}
        may_limit = is_child and threading.current_thread() is threading.main_thread()
        self._limits = terms.soft_limits if may_limit else ()

    def comes_again(self, member: Packed) -> bool:
        """Run a member; True if its message has to come again, be it to a worker that knows its task."""
        task = self._app.tasks.get(member.task)
        if task is None:
            return True
        self._events.received(member)
        if self._slots is None or self._slot is None:
            return self._run(task, member)
        if self._slots.is_revoked(self._slot, member.position):
            logger.info("Discarding revoked task: %s[%s]", member.task, member.id)
            revoke(task, member, TaskRevokedError("revoked"))
            self._events.revoked(member)
            return False
        self._slots.begin(self._slot, member.position)
        try:
            return self._run(task, member)
        finally:
            self._slots.end(self._slot)

    def _run(self, task: Any, member: Packed) -> bool:
        self._events.started(member)
        traced = self._traced(task, member)
        self._events.ended(member, traced)
        info = traced.info
        if info is None or info.state != REJECTED:
            return False
        if not info.retval.requeue:
            fail(task, member, info.retval, is_settled=True)
        return bool(info.retval.requeue)

    def _traced(self, task: Any, member: Packed) -> Any:
        request = member.request
        request["properties"] = with_place(request["properties"], self._place)
        name_owner(request, owner_beside(self._owner, member.id))
        limit = self._limits[member.position] if self._limits else None
        try:
            with soft_limit(limit, f"{member.task}[{member.id}]"):
                return trace_task(task, member.id, member.args, member.kwargs, request, app=self._app)
        except Reject as reject:
            return trace_ok_t(None, TraceInfo(REJECTED, reject), 0.0, None)
