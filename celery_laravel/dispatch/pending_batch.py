"""A batch while it is being built."""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps, loads

from celery_laravel.dispatch.batch_dispatch import dispatch_batch
from celery_laravel.dispatch.callbacks import as_data, callback_of
from celery_laravel.dispatch.chained_batch import step_of
from celery_laravel.dispatch.closures import PendingClosure
from celery_laravel.dispatch.connections import check_connection
from celery_laravel.dispatch.dispatcher import is_met
from celery_laravel.dispatch.packing import PACK, check_size
from celery_laravel.message.arguments import check_arguments
from celery_laravel.message.durations import delay_in_seconds
from celery_laravel.stores.records import NewBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta

    from celery import Celery
    from celery.canvas import Signature

    from celery_laravel.dispatch.batch import Batch
    from celery_laravel.stores.records import BatchChange


_WITH_EXCEPTION = frozenset({"catch", "failure"})
_METHODS = {"failure": "allow_failures", "finally": "finally_"}


class PendingBatch:
    """Jobs that are to be dispatched as a batch, and what shall happen along the way.

    Every method but `dispatch`, its conditional forms and `signature` returns
    the pending batch, so that calls chain.
    Callbacks are signatures of tasks; each is called with the `Batch` first
    (``catch`` and those of `allow_failures` with the batch and the exception),
    then its own arguments.
    Registering one twice means two calls, in order. With the setting
    ``laravel_secret_key`` plain functions and lambdas are taken too, as closures.

        batch = (Bus.batch([import_csv.s(1, 100), import_csv.s(101, 200)])
                 .name("Import CSV").then(report.s()).catch(alert.s()).dispatch())
    """

    def __init__(self, app: Celery, jobs: Any, after_change: Callable[[BatchChange | None], None]) -> None:
        self._app = app
        self._jobs = jobs
        self._after_change = after_change
        self._name = ""
        self._options: dict[str, Any] = {}
        self._callbacks: dict[str, list[Mapping[str, Any] | PendingClosure]] = {}
        self._allows_failures = False
        self._countdown: float | None = None

    def name(self, name: str) -> PendingBatch:
        """Give the batch a name, for people."""
        self._name = str(name)
        return self

    def before(self, callback: Any) -> PendingBatch:
        """Call ``callback(batch)`` when the batch is there and has no jobs yet.

        It is sent before the first job, as a job of its own. With several
        workers the first jobs may start while it runs.
        """
        return self._register("before", callback)

    def progress(self, callback: Any) -> PendingBatch:
        """Call ``callback(batch)`` after each job that succeeds: a job of its own for each."""
        return self._register("progress", callback)

    def then(self, callback: Any) -> PendingBatch:
        """Call ``callback(batch)`` once every job has succeeded."""
        return self._register("then", callback)

    def catch(self, callback: Any) -> PendingBatch:
        """Call ``callback(batch, exc)`` at the first failure."""
        return self._register("catch", callback)

    def finally_(self, callback: Any) -> PendingBatch:
        """Call ``callback(batch)`` once no job is outstanding, whether they succeeded or not."""
        return self._register("finally", callback)

    def allow_failures(self, allow: Any = True) -> PendingBatch:
        """Let the batch go on after a failed job, instead of cancelling it.

        Given a callback or a list of them, call ``callback(batch, exc)`` for
        each job that fails, too. `catch` is for the first one alone.
        """
        self._allows_failures = allow is not False
        if not isinstance(allow, bool):
            for callback in allow if isinstance(allow, (list, tuple)) else (allow,):
                self._register("failure", callback)
        return self

    def on_queue(self, queue: str) -> PendingBatch:
        """Send the jobs to this queue, save those that name one themselves."""
        return self.with_option("queue", queue)

    def on_connection(self, name: str) -> PendingBatch:
        """Send the jobs to this broker of ``laravel_connections``, and those that are added later; callbacks too.

        Raises:
            ConfigurationError: There is no such connection; the message lists those that there are.
        """
        check_connection(self._app, name)
        return self.with_option("connection", name)

    def delay(self, seconds: float | timedelta) -> PendingBatch:
        """Let the jobs wait for so many seconds, save those that name a delay themselves; a chain's first step waits.

        Jobs that are added later do not wait.

        Raises:
            ValueError: It is negative, or no duration.
        """
        self._countdown = delay_in_seconds(seconds)
        return self

    def pack(self, size: int) -> PendingBatch:
        """Let up to ``size`` small jobs travel in one message, and run one after another in one worker process.

        Each is a job of its own all the same: its id, attempts, middleware,
        outcome and count. One that is released or retried goes on alone, as does
        from the start what is to wait or may expire, and any chain or other
        canvas. Worth it for jobs that take less than some milliseconds.

        Raises:
            TypeError: It is no whole number.
            ValueError: It is none from 1 to 1,000.
            ConfigurationError: The app has no task for packs, as `install` has not been called.
        """
        return self.with_option(PACK, check_size(self._app, size))

    def with_option(self, key: str, value: Any) -> PendingBatch:
        """Keep a value with the batch (``batch.options``); it must be what JSON can carry.

        Raises:
            TypeError: JSON cannot carry it.
        """
        try:
            self._options[key] = loads(dumps(value))
        except (TypeError, ValueError) as error:
            msg = f"with_option({key!r}, {value!r}): options are kept with the batch as JSON: {error}"
            raise TypeError(msg) from error
        return self

    def dispatch(self, on_progress: Callable[[int], Any] | None = None) -> Batch:
        """Create the batch, send its jobs, and return it.

        The jobs may be any iterable; they are taken and sent in slices of a
        thousand, so a generator is never held as a whole. Callbacks can fire
        only when all have been sent. An empty batch finishes at once.

        A store that goes away when all jobs have been sent fails no dispatch: the
        broker keeps word that these are all, and the batch finishes when a
        worker has passed that on. The batch that is returned is then as it was
        when its jobs were sent.

        Args:
            on_progress: Called after each slice with how many signatures have
                been sent so far, for a progress bar. What it raises ends the
                dispatch like any other failure midway.

        Raises:
            TypeError: A job is no signature, and nothing was sent.
            ConfigurationError: A task is no job, as `install` has not been
                called, or the store cannot be used; nothing was sent.
            BatchDispatchError: Something failed after jobs had been sent: the
                broker, the store, the iterable, ``on_progress``. The batch is
                cancelled, what was counted and not sent is counted as never to
                run, and what was sent goes on. While the store is away the
                broker keeps word of that, which a worker passes on; where it
                does not answer either, for ten seconds, the error says so and
                how to close the batch (`Batch.close`).
            StoreUnavailableError: The store did not answer, and no job was sent.
            OperationalError: The broker cannot be reached; there is no batch.
        """
        return dispatch_batch(self._app, self._new(), self._jobs, self._after_change, on_progress, self._countdown)

    def dispatch_if(self, condition: Any) -> Batch | None:
        """Dispatch if a condition holds: a value, or a callable without arguments. None when it does not."""
        return self.dispatch() if is_met(condition) else None

    def dispatch_unless(self, condition: Any) -> Batch | None:
        """Dispatch unless a condition holds: a value, or a callable without arguments. None when it does."""
        return None if is_met(condition) else self.dispatch()

    def signature(self) -> Signature:
        """The batch as one job, which ends when the batch does: to stand in a canvas of Celery's; for one dispatch.

        In chains of `Bus.chain` and in batches the pending batch may stand as it
        is. Its jobs travel in that job's message, all of them: keep them few.

        Raises:
            TypeError: A job is no signature, or its arguments are not what JSON can carry.
            ConfigurationError: A task is no job, as `install` has not been called.
        """
        return step_of(self._app, self._new(), self._jobs, self._countdown)

    def _new(self) -> NewBatch:
        """The batch that is dispatched now, with its callbacks signed for it."""
        batch_id = new_batch_id()
        callbacks = {
            kind: [_signed(f"{batch_id}:{kind}:{position}", callback) for position, callback in enumerate(registered)]
            for kind, registered in self._callbacks.items()
            if kind != "failure" or self._allows_failures
        }
        return NewBatch(batch_id, self._name, self._options, callbacks, self._allows_failures)

    def _register(self, kind: str, callback: Any) -> PendingBatch:
        method = _METHODS.get(kind, kind)
        callback = callback_of(self._app, method, callback)
        if isinstance(callback, PendingClosure):
            self._callbacks.setdefault(kind, []).append(callback)
            return self
        _refuse_uncallable(self._app, method, callback, kind in _WITH_EXCEPTION)
        self._callbacks.setdefault(kind, []).append(_as_data(method, callback))
        return self


def new_batch_id() -> str:
    """A UUID of version 7 (RFC 9562): ids made later sort later, to the millisecond."""
    milliseconds = int(time.time() * 1000)
    value = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def _signed(task_id: str, callback: Mapping[str, Any] | PendingClosure) -> Mapping[str, Any]:
    """A callback as it is kept with the batch; a closure is signed for the id of the job that will run it."""
    if isinstance(callback, PendingClosure):
        return _as_data("callback", callback.signature(task_id, immutable=False))
    return callback


def _refuse_uncallable(app: Celery, method: str, callback: Signature, with_exception: bool) -> None:
    """Refuse a task that does not take what its callback is given; it could never be sent."""
    task = app.tasks.get(callback.task)  # unknown here, it may be known to a worker
    if task is None or callback.subtask_type is not None:
        return
    given = () if callback.immutable else ("batch", "exc") if with_exception else ("batch",)
    try:
        check_arguments(task, (*given, *(callback.args or ())), callback.kwargs)
    except TypeError as error:
        msg = (
            f"{method}({callback!r}): it is called with {', '.join(given) or 'nothing'} and the signature's own "
            f"arguments, which {callback.task} does not take: {error}"
        )
        raise TypeError(msg) from error


def _as_data(kind: str, callback: Signature) -> Mapping[str, Any]:
    """A callback as it is kept with the batch; its arguments must be what JSON can carry."""
    return as_data(kind, callback, carried="are kept with the batch")
