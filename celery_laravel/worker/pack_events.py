"""The task events of a pack's members, which Celery's worker sends for messages alone."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from celery.states import FAILURE, IGNORED, REJECTED, RETRY
from celery.utils.saferepr import saferepr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from celery_laravel.message.packs import Packed

logger = logging.getLogger(__name__)


class PackEvents:
    """Sends what Celery's worker sends for a message of its own: received, started, and how it ended.

    Should the broker fail, that is logged once, and the rest of the pack goes
    without events: they change no job.
    """

    def __init__(self, app: Celery, dispatcher: Any) -> None:
        self._app = app
        self._dispatcher = dispatcher

    def received(self, member: Packed) -> None:
        """A member has come."""
        if self._dispatcher is None:
            return
        request = member.request
        args = request.get("argsrepr") or saferepr(member.args)
        kwargs = request.get("kwargsrepr") or saferepr(member.kwargs)
        self._send(
            member,
            "task-received",
            name=request.get("shadow") or member.task,
            args=args,
            kwargs=kwargs,
            root_id=request.get("root_id"),
            parent_id=request.get("parent_id"),
            retries=request.get("retries", 0),
            eta=None,
            expires=None,
        )

    def started(self, member: Packed) -> None:
        """A member begins."""
        self._send(member, "task-started")

    def ended(self, member: Packed, traced: Any) -> None:
        """A member has been traced; ``traced`` is what Celery's tracer returned."""
        _, info, runtime, text = traced
        if info is None:
            self._send(member, "task-succeeded", result=text, runtime=runtime)
            return
        state, error = info.state, info.retval
        if state == RETRY:
            self._send(member, "task-retried", exception=saferepr(error.exc), traceback="")
        elif state == REJECTED:
            self._send(member, "task-rejected", requeue=bool(error.requeue))
        elif state == FAILURE:
            self.failed(member, error)
        else:
            assert state == IGNORED, state

    def failed(self, member: Packed, error: BaseException) -> None:
        """A member has failed."""
        self._send(member, "task-failed", exception=saferepr(error), traceback="")

    def revoked(self, member: Packed) -> None:
        """A member has been revoked before it began."""
        self._send(member, "task-revoked", terminated=False, signum=None, expired=False)

    def _send(self, member: Packed, kind: str, **fields: Any) -> None:
        task = self._app.tasks.get(member.task)
        if self._dispatcher is None or task is None or not task.send_events:
            return
        try:
            self._dispatcher.send(kind, uuid=member.id, **fields)
        except Exception:
            logger.exception("The events of a pack's members cannot be sent; the rest of them is not")
            self._dispatcher = None


@contextlib.contextmanager
def events_of(app: Celery, hostname: str | None, *, enabled: bool) -> Iterator[PackEvents]:
    """The events of a pack, which go out if they are ``enabled``."""
    if not enabled:
        yield PackEvents(app, None)
        return
    with app.events.default_dispatcher(hostname=hostname) as dispatcher:
        yield PackEvents(app, dispatcher)
