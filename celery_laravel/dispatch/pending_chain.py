"""A chain while it is being built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery import chain
from celery.canvas import Signature
from celery.utils import uuid

from celery_laravel.dispatch.callbacks import as_data, callback_of
from celery_laravel.dispatch.chained_batch import inherit_queue
from celery_laravel.dispatch.closures import PendingClosure
from celery_laravel.dispatch.connections import check_connection, send_through
from celery_laravel.dispatch.dispatcher import is_met
from celery_laravel.dispatch.members import as_signature
from celery_laravel.message.canvas import change_headers, delay_start, tasks_of
from celery_laravel.message.durations import delay_in_seconds

if TYPE_CHECKING:
    from datetime import timedelta

    from celery import Celery
    from celery.result import AsyncResult

    from celery_laravel.message.header import Header


class PendingChain:
    """Jobs that are to run one after the other, and what shall happen when one fails.

    A step is what may stand in a batch: a signature, a group, a chord, a
    function (with ``laravel_secret_key``), or a batch that is being built, which
    the step after it waits for. Results pass from step to step as in
    any chain of Celery's: ``.s`` receives the previous result, ``.si`` does not.
    Every method but `dispatch`, `dispatch_if`, `dispatch_unless` and `signature`
    returns the pending chain, so that calls chain.

        Bus.chain([download.s(url), encode.s(), publish.s()]).catch(alert.s()).on_queue("podcasts").dispatch()

    Raises:
        TypeError: A step is no signature, or there is none.
    """

    def __init__(self, app: Celery, steps: Any) -> None:
        if isinstance(steps, (Signature, Mapping, str)) or not steps:
            raise TypeError(f"A chain takes a list of signatures, not {steps!r}. Give [first.s(…), second.s(…)].")
        self._app = app
        self._steps = [as_signature(app, step, position) for position, step in enumerate(steps)]
        self._catches: list[Signature | PendingClosure] = []
        self._queue: str | None = None
        self._connection: str | None = None
        self._countdown = 0.0

    def catch(self, callback: Any) -> PendingChain:
        """Call ``callback(exc)``, as a job of its own, when a step has failed for good, whichever and however.

        A signature, or with ``laravel_secret_key`` a function. The steps after
        the failed one do not run. Of several members of a group that fail, the
        first failure is caught; a failed step that is tried again and fails
        again is caught again.

        Raises:
            TypeError: It is neither, or its arguments are not what JSON can carry.
        """
        self._catches.append(callback_of(self._app, "catch", callback))
        return self

    def on_queue(self, queue: str) -> PendingChain:
        """Send the steps to this queue, save those that name one themselves."""
        self._queue = queue
        return self

    def on_connection(self, name: str) -> PendingChain:
        """Send the first step to this broker of ``laravel_connections``, whose workers send the others there.

        Raises:
            ConfigurationError: There is no such connection; the message lists those that there are.
        """
        check_connection(self._app, name)
        self._connection = name
        return self

    def delay(self, seconds: float | timedelta) -> PendingChain:
        """Let the first step wait for so many seconds.

        Raises:
            ValueError: It is negative, or no duration.
        """
        self._countdown = delay_in_seconds(seconds)
        return self

    def dispatch(self) -> AsyncResult[Any]:
        """Send the first step, and return the result of the last, whose ``parent`` leads back to the first.

        Raises:
            TypeError: A callback's arguments, or what a function captures, cannot travel.
        """
        return self.signature().apply_async()

    def dispatch_if(self, condition: Any) -> AsyncResult[Any] | None:
        """Dispatch if a condition holds: a value, or a callable without arguments. None when it does not."""
        return self.dispatch() if is_met(condition) else None

    def dispatch_unless(self, condition: Any) -> AsyncResult[Any] | None:
        """Dispatch unless a condition holds: a value, or a callable without arguments. None when it does."""
        return None if is_met(condition) else self.dispatch()

    def signature(self) -> Signature:
        """The chain as a signature of Celery's, to stand in another canvas; for one dispatch."""
        steps = [step.clone() for step in self._steps]
        for task in [task for step in steps for task in tasks_of(step)]:
            if self._queue is not None:
                task["options"].setdefault("queue", self._queue)
                inherit_queue(task, self._queue)
        if self._countdown:
            delay_start(steps[0], self._countdown)
        if self._connection is not None:
            send_through(self._app, steps[0], self._connection)
        if self._catches:
            self._mark(steps)
        return chain(*steps, app=self._app) if len(steps) > 1 else steps[0]

    def _mark(self, steps: list[Signature]) -> None:
        """Tell every step whom to call when it fails."""
        chain_id = uuid()
        catch = [
            as_data(
                "catch",
                callback.signature(f"{chain_id}:catch", immutable=False)
                if isinstance(callback, PendingClosure)
                else callback,
                carried="travel",
            )
            for callback in self._catches
        ]

        def with_chain(header: Header) -> Header:
            return replace(header, chain={"id": chain_id, "catch": catch}, is_counted=True)

        for step in steps:
            change_headers(step, with_chain)
