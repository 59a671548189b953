"""The task class: where dispatch and work meet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar

from celery import Task
from celery._state import _task_stack, get_current_task
from celery.app.task import Context
from celery.signals import task_postrun, task_unknown
from celery.states import FAILURE
from celery.utils import uuid

from celery_laravel import events
from celery_laravel.attempt import leases, unique
from celery_laravel.attempt.outcome import Released
from celery_laravel.attempt.ownership import owner_of
from celery_laravel.attempt.retry_policy import Counts, Limits, to_seconds
from celery_laravel.attempt.running_job import RUNNING, RunningJob, bind_arguments
from celery_laravel.dispatch.batch import Batch, hand_over, register_batches
from celery_laravel.dispatch.by_name import check_sending_by_name
from celery_laravel.dispatch.dispatcher import dispatch, needs_dispatcher, refuse_what_is_not_there
from celery_laravel.dispatch.members import as_signature
from celery_laravel.errors import ManuallyFailedError
from celery_laravel.message.arguments import register_exceptions
from celery_laravel.message.durations import is_seconds
from celery_laravel.message.header import has_header, is_callback, read_header
from celery_laravel.message.options import JobOptions, read_options
from celery_laravel.message.resend import resend
from celery_laravel.runtime import Runtime, runtime_of
from celery_laravel.settings import settings_of
from celery_laravel.stores.factory import store_of
from celery_laravel.worker.admission import last_known_arguments
from celery_laravel.worker.conclusion import unstarted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import timedelta

    from celery import Celery
    from celery.canvas import Signature

_AWAITS_SUPER = "_laravel_awaits_super"
"""Set on a request while a ``__call__`` of the user's own is to call ``super().__call__``, which is the job's code."""


class Job(Task):
    """A Celery task with the job features of this library.

    ``install(app)`` makes every task of an app a Job. A task that declares
    none of the options behaves exactly as under plain Celery, and may still
    call `release`, `fail` and `delete` while it runs.

        @app.task(bind=True, tries=5, backoff=[1, 5, 10])
        def sync_account(self, user_id): ...

    What a running job says (`release`, `fail`, `delete`) takes effect when the
    attempt ends. A job's code may run again after a crash: it runs at least
    once.
    """

    abstract = True
    Strategy = "celery_laravel.worker.strategy:job_strategy"
    Request = "celery_laravel.worker.request:JobRequest"

    job_options: ClassVar[JobOptions] = JobOptions()
    declares_acks_late: ClassVar[bool] = False
    may_hold_locks: ClassVar[bool] = False
    _declares_nothing: ClassVar[bool] = True
    _is_builtin: ClassVar[bool] = False
    _users_call: ClassVar[Callable[..., Any] | None] = None

    # -- registration

    @classmethod
    def bind(cls, app: Celery) -> Any:
        """Connect the class to an app, which is when its options are read and checked.

        Raises:
            ConfigurationError: An option is unknown, of the wrong kind, or
                contradicts another; or the app is being finalised, and one of
                its settings is wrong.
        """
        cls._is_builtin = str(cls.name).startswith("celery.")
        is_new = "job_options" not in vars(cls)  # Celery binds a task again when the app is finalised
        if is_new and not cls._is_builtin:
            cls.job_options = read_options(cls, Job)
            cls._declares_nothing = cls.job_options.is_plain
            cls.may_hold_locks = not cls._declares_nothing
            cls.declares_acks_late = cls.acks_late is not None
            if cls.job_options.outlives_worker:
                _acknowledge_late(cls)
            if cls.job_options.is_checked_at_dispatch:
                check_sending_by_name(app)
            _wrap_users_call(cls)
        _prepare_process()
        if app.finalized:
            settings_of(app)  # here, because the signal that ends the finalizing swallows exceptions
        return super().bind(app)

    # -- dispatch

    def apply_async(  # noqa: PLR0917  Celery's own signature
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        """Dispatch the job, as Celery's ``apply_async`` does, with what its options ask to be added to the message.

        A dispatch that uniqueness suppresses sends nothing and returns the
        result of the job that holds the lock, with ``.suppressed`` true.
        ``unique_for`` overrides the option of that name.

        Raises:
            ConfigurationError: A keyword asks for what is not to be had.
            StoreUnavailableError: The job is unique or debounced, and the store
                did not answer. Nothing was sent.
        """
        refuse_what_is_not_there(self, options)

        if not needs_dispatcher(self, options):
            return super().apply_async(args, kwargs, task_id, producer, link, link_error, shadow, **options)

        def publish(**options: Any) -> Any:
            return super(Job, self).apply_async(
                args, kwargs, producer=producer, link=link, link_error=link_error, shadow=shadow, **options
            )

        return dispatch(self, publish, args, kwargs, task_id, link, options)

    def delay_if(self, condition: Any, *args: Any, **kwargs: Any) -> Any:
        """Dispatch the job if a condition holds: a value, or a callable without arguments. None when it does not."""
        return self.delay(*args, **kwargs) if _holds(condition) else None

    def delay_unless(self, condition: Any, *args: Any, **kwargs: Any) -> Any:
        """Dispatch the job unless a condition holds: a value, or a callable without arguments. None when it does."""
        return None if _holds(condition) else self.delay(*args, **kwargs)

    def dispatch_sync(self, *args: Any, **kwargs: Any) -> Any:
        """Run the job here and now through every middleware, and return what its code returns.

        There is one attempt, whatever ``tries`` says; no message is sent and no
        result stored. A failure leaves a record only inside a job that a worker
        runs; elsewhere the caller sees it. A job that calls ``fail()`` runs its
        hooks and returns normally.

        Raises:
            JobReleasedError: The job, or a middleware, released it.
            Exception: Whatever the job's code raises, after its ``failed()`` hook.
        """
        keeps_record = _is_in_worker()
        request = Context(
            id=uuid(),
            task=self.name,
            args=args,
            kwargs=kwargs,
            is_eager=True,
            called_directly=False,
            headers={},
            delivery_info={"is_eager": True},
        )
        _task_stack.push(self)
        self.request_stack.push(request)  # Celery's `push_request` would copy from that of a job of this task outside
        try:
            return self._runtime.runs.in_caller(self, request, args, kwargs, keeps_record=keeps_record)
        finally:
            self.pop_request()
            _task_stack.pop()

    # -- what a running job may ask and say

    @property
    def attempts(self) -> int:
        """The number of this attempt, from 1; releases, exceptions and crashes of the worker count."""
        return self._running("attempts").counts.attempt

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments by parameter name, defaults included."""
        self._running("arguments")
        return bind_arguments(self.run, tuple(self.request.args or ()), self.request.kwargs or {})

    @property
    def batch(self) -> Batch | None:
        """The batch this job belongs to, as it stands now (one call of the store), or None."""
        header = self._running("batch").header
        if header.batch_id is None:
            return None
        record = self._runtime.store.batches.find(header.batch_id)
        return None if record is None else Batch(record, self.app)

    def release(self, delay: float | timedelta = 0, count_attempt: bool | None = None) -> None:
        """Put the job back once this attempt returns; it does not raise.

        The last call holds. A ``fail()`` or ``delete()`` in the same attempt
        wins over it; an exception does too, and lends the delay to its own
        retry.

        Args:
            delay: Seconds, or a timedelta, until the job may be picked up again.
            count_attempt: Whether this attempt uses up one of ``tries``; None
                leaves it to ``laravel_release_counts``.
        """
        seconds = to_seconds(delay) if hasattr(delay, "total_seconds") else delay
        if not is_seconds(seconds):
            msg = f"Task {self.name!r}: release({delay!r}): the delay must be seconds or a timedelta, not negative."
            raise ValueError(msg)
        running = self._running("release")
        if count_attempt is None:
            count_attempt = running.code_ran or self._runtime.defaults.release_counts
        if not running.verdict.is_final:
            running.verdict.release = Released(float(seconds), counts=count_attempt)

    def fail(self, exc: BaseException | str | None = None) -> None:
        """Fail the job for good once this attempt returns; it does not raise.

        Args:
            exc: The reason: an exception, a message, or nothing
                (`ManuallyFailedError`). The first call holds.
        """
        if isinstance(exc, type) and issubclass(exc, BaseException):
            exc = exc()
        if not isinstance(exc, BaseException):
            exc = ManuallyFailedError(exc or f"{self.name} was failed by hand.")
        running = self._running("fail")
        if not running.verdict.is_final:
            running.verdict.failure = exc

    def delete(self) -> None:
        """Be done with the job, whatever follows in this attempt; it is not a failure, and a chain goes on."""
        running = self._running("delete")
        if not running.verdict.is_final:
            running.verdict.deleted = True

    def prepend_to_chain(self, signature: Any) -> None:
        """Run a signature, or a list of them as a chain, next; what was to follow comes after it.

        It takes effect when this attempt has succeeded: one that is released or
        raises has changed nothing. The later of two calls runs first. In a batch
        the new steps are members of it; a chain's ``catch`` holds for them too.

        Raises:
            TypeError: It is no signature.
        """
        self._running("prepend_to_chain").following.append((True, as_signature(self.app, signature, 0)))

    def append_to_chain(self, signature: Any) -> None:
        """Run a signature, or a list of them as a chain, after all that was to follow; else as `prepend_to_chain`.

        Raises:
            TypeError: It is no signature.
            RuntimeError: The job's chain stands in the header of a chord, which
                waits for the step that is now its last.
        """
        running = self._running("append_to_chain")
        if self.request.chord or any((step.get("options") or {}).get("chord") for step in self.request.chain or ()):
            raise RuntimeError(f"{self.name}.append_to_chain: a chord waits for the last step that its chain has now.")
        running.following.append((False, as_signature(self.app, signature, 0)))

    # -- work

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the job: an attempt when Celery's worker calls, just the code when anybody else does."""
        request = self.request_stack.top
        if request is None or request.called_directly:
            return super().__call__(*args, **kwargs)
        if RUNNING not in request.__dict__:
            return self._attempt(request, args, kwargs)
        if request.__dict__.pop(_AWAITS_SUPER, False):
            return self.run(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def signature_from_request(
        self, request: Any = None, args: Any = None, kwargs: Any = None, queue: str | None = None, **extra_options: Any
    ) -> Signature:
        """The signature that sends a running job again; Celery's ``retry`` uses it too.

        A retry of Celery's own has Celery's own budget and uses up no attempt.
        """
        request = self.request if request is None else request
        running: RunningJob | None = request.__dict__.get(RUNNING)
        if running is None:
            return super().signature_from_request(request, args, kwargs, queue, **extra_options)
        return resend(
            self, request, running.put_back(counts=False, after_exception=False), args, kwargs, queue, **extra_options
        )

    def on_replace(self, sig: Signature) -> Any:
        """Hand a batch's member over to the signature that takes this job's place (Celery's ``replace``)."""
        running: RunningJob | None = self.request.__dict__.get(RUNNING)
        if running is not None:
            if running.header.batch_id is not None:
                hand_over(self._runtime.store, running, sig)
            self._runtime.settlement.free_unique_lock(self, running)  # the other job, of the same id, has its own
            self._runtime.settlement.forgotten(running)
        return super().on_replace(sig)

    # -- what the worker's parent asks

    def is_followed(self, request: Any) -> bool:
        """Whether a batch or a chain's ``catch`` waits for a request's job, as far as its message tells."""
        return unstarted(self, request).header.is_followed

    @property
    def counts_starts(self) -> bool:
        """Whether every start of the job is written down, so that a crash counts and no copy starts beside it."""
        return bool(self.acks_late and self.job_options.outlives_worker)

    def end_leases_of(self, attempts: Mapping[str, str], owners: Iterable[str]) -> None:
        """End attempts, given as job id to owner, and free the owners' locks, their process being gone.

        The attempts may not be written down at all, and the locks not taken.
        """
        store = self._runtime.store
        for job_id, owner in attempts.items():
            leases.end_attempt(store, job_id, owner)
        for owner in owners:
            store.locks.release_all(owner)

    def free_unique_lock_of(self, request: Any) -> None:
        """Free the lock of a unique job that has been revoked or has expired."""
        unique.free(self, unstarted(self, request))

    def give_up_slots_of(self, request: Any) -> None:
        """Give up the starts that limiters keep for a job that has been revoked or has expired."""
        self._runtime.settlement.give_up_slots(unstarted(self, request))

    def settle_without_child(self, request: Any, error: Exception | None) -> None:
        """Settle a job in the worker's parent, its own process being gone; without ``error`` it had succeeded."""
        runtime = self._runtime
        if self._is_plain(request, runtime):
            return
        running = unstarted(self, request)
        running.is_durable = self.counts_starts
        args, kwargs = tuple(request.args or ()), dict(request.kwargs or {})
        self.push_request(**vars(request))
        try:
            self.request_stack.top.__dict__[RUNNING] = running
            args, kwargs = last_known_arguments(self, self.request_stack.top, running, args, kwargs)
            if error is None:
                runtime.settlement.succeeded(self, running, args, kwargs)
            else:
                runtime.settlement.failed(self, self.request_stack.top, running, error, args, kwargs)
                runtime.settlement.finished(running)
        finally:
            self.pop_request()

    def _attempt(self, request: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        runtime = self._runtime
        is_managed = not self._is_plain(request, runtime)
        if is_managed or events.anyone_follows_attempts():
            args = self._refreshed(request, args)
            return runtime.runs.managed(self, request, args, kwargs, keeps_record=is_managed)
        return runtime.runs.plainly(self, request, args, kwargs)

    def run_code(self, *args: Any, **kwargs: Any) -> Any:
        """Run the job's own code: ``run``, inside the ``__call__`` that a base class of the user's may define."""
        around = self._users_call
        if around is None:
            return self.run(*args, **kwargs)
        self.request_stack.top.__dict__[_AWAITS_SUPER] = True
        return around(self, *args, **kwargs)

    def _is_plain(self, request: Any, runtime: Runtime) -> bool:
        """Whether nothing asks for this library: no option, no default, no header."""
        if has_header(request.headers):
            return False
        return self._is_builtin or (self._declares_nothing and not runtime.defaults.manage_every_job)

    def _refreshed(self, request: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A callback's arguments, with the batch as it stands now instead of when the callback was sent."""
        if not args or not isinstance(args[0], Batch) or not is_callback(request.headers):
            return args
        batch = args[0].bound_to(self.app)
        return (batch.fresh() or batch, *args[1:])

    def _running(self, asked: str) -> RunningJob:
        request = self.request_stack.top
        if request is None or RUNNING not in request.__dict__:
            msg = (
                f"{self.name}.{asked} is known only while the job runs: use it inside its own code (bind=True), and "
                "where that is called directly, call dispatch_sync(…) instead."
            )
            raise RuntimeError(msg)
        running: RunningJob | None = request.__dict__[RUNNING]
        if running is None:
            header = read_header(request.headers)
            running = RunningJob(
                request.id,
                self.job_options,
                header,
                Counts(header.attempts + 1),
                Limits(),
                code_ran=True,
                owner=owner_of(request),
            )
            request.__dict__[RUNNING] = running
        return running

    @property
    def _runtime(self) -> Runtime:
        return runtime_of(self.app)


def current_job() -> Job | None:
    """The job whose code runs in this thread or greenlet, or None."""
    task = get_current_task()
    if not isinstance(task, Job):
        return None
    request = task.request_stack.top
    return task if request is not None and RUNNING in request.__dict__ else None


def _is_in_worker() -> bool:
    """Whether this thread or greenlet runs a task for a worker, and not for a caller of its own."""
    requests = (request for task in _task_stack.stack for request in task.request_stack.stack)
    return any(not request.called_directly and not request.is_eager for request in requests)


def _enter(self: Job, *args: Any, **kwargs: Any) -> Any:
    """``__call__`` of a job whose own base class defines one: the attempt goes around it."""
    request = self.request_stack.top
    if request is None or request.called_directly or RUNNING in request.__dict__:
        assert self._users_call is not None
        return self._users_call(self, *args, **kwargs)
    return self._attempt(request, args, kwargs)


def _wrap_users_call(cls: type[Job]) -> None:
    for base in cls.__mro__[: cls.__mro__.index(Job)]:
        call = vars(base).get("__call__")
        if call is not None and call is not _enter:
            cls._users_call = staticmethod(call)
            cls.__call__ = _enter  # type: ignore[method-assign]  # this is the point
            return


def _acknowledge_late(cls: type[Job]) -> None:
    """Let a job whose attempts are counted survive its worker, unless the task says otherwise."""
    if cls.acks_late is None:
        cls.acks_late = True
        if cls.reject_on_worker_lost is None:
            cls.reject_on_worker_lost = True


def _holds(condition: Any) -> bool:
    return bool(condition() if callable(condition) else condition)


def _prepare_process() -> None:
    """What every process that has jobs needs once: the settling after Celery's own ending, and JSON's decoders."""
    task_postrun.connect(_settle_after_trace, dispatch_uid="celery_laravel.settlement", weak=False)
    task_unknown.connect(_free_lock_of_unknown, dispatch_uid="celery_laravel.unknown", weak=False)
    register_exceptions()
    register_batches()


def _free_lock_of_unknown(sender: Any = None, message: Any = None, id: str | None = None, **_: Any) -> None:  # noqa: A002
    """Free the unique lock of a job that is dropped because this worker does not have its task."""
    headers = getattr(message, "headers", None)
    if id is None or not has_header(headers):
        return
    key = read_header(headers).unique
    if key is not None:
        keys = [key, unique.running_key(key), unique.arguments_key(id)]
        store_of(sender.app).locks.release(keys, owner=id)


def _settle_after_trace(sender: Any = None, state: str | None = None, retval: Any = None, **_: Any) -> None:
    if not isinstance(sender, Job):
        return
    request = sender.request_stack.top
    running: RunningJob | None = request.__dict__.get(RUNNING)
    if running is not None and running.is_durable:
        leases.let_go_of_attempt(running.id, running.owner)
    error = retval if state == FAILURE else sys.exc_info()[1] if state is None else None
    if error is not None and not isinstance(error, Exception):
        return  # the process is to exit; the message comes again
    if running is None:
        if error is None or not has_header(request.headers):
            return
        running = unstarted(sender, request)
    runtime_of(sender.app).settlement.after_trace(sender, request, running, error)
