"""The task class: where dispatch and work meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from celery._state import _task_stack, get_current_task
from celery.app.task import Context
from celery.utils import uuid

from celery_laravel import events
from celery_laravel.attempt.running_job import RUNNING, RunningJob
from celery_laravel.dispatch.batch import Batch
from celery_laravel.dispatch.by_name import check_sending_by_name
from celery_laravel.dispatch.connections import OPTION, producers_of
from celery_laravel.dispatch.dispatcher import dispatch, is_met, needs_dispatcher, refuse_what_is_not_there
from celery_laravel.dispatch.expiring import deliver_expired
from celery_laravel.dispatch.following import wait_for_broker
from celery_laravel.dispatch.replacing import hand_over
from celery_laravel.job.own_tasks import add_own_tasks
from celery_laravel.job.process import prepare_process
from celery_laravel.job.settled import SettledJob
from celery_laravel.message.amqp import send_by
from celery_laravel.message.header import is_callback
from celery_laravel.message.options import read_options
from celery_laravel.message.resend import resend
from celery_laravel.settings import settings_of
from celery_laravel.worker.redelivery import reveal_redelivery
from celery_laravel.worker.results import store_retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery
    from celery.canvas import Signature

_AWAITS_SUPER = "_laravel_awaits_super"
"""Set on a request while a ``__call__`` of the user's own is to call ``super().__call__``, which is the job's code."""


class Job(SettledJob):
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

    declares_acks_late: ClassVar[bool] = False
    may_hold_locks: ClassVar[bool] = False
    stores_its_start: ClassVar[bool] = False
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
        prepare_process()
        send_by(app, deliver_expired)
        send_by(app, wait_for_broker)
        add_own_tasks(app, Job)
        if app.finalized:
            settings_of(app)  # here, because the signal that ends the finalizing swallows exceptions
        bound = super().bind(app)
        if is_new and cls.acks_late and cls.job_options.outlives_worker:
            cls.stores_its_start, cls.track_started = bool(cls.track_started), False
        return bound

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
        ``unique_for`` overrides the option of that name. With
        ``connection_name`` the message goes to that broker of
        ``laravel_connections``, whatever ``producer`` says; a worker there sends
        what follows from the job through its own.

        Raises:
            ConfigurationError: A keyword asks for what is not to be had.
            StoreUnavailableError: The job is unique or debounced, and the store
                did not answer. Nothing was sent.
        """
        refuse_what_is_not_there(self, options)
        name = options.pop(OPTION, None)
        if name is not None:
            with producers_of(self._get_app(), name).acquire(block=True) as named:
                return self.apply_async(args, kwargs, task_id, named, link, link_error, shadow, **options)

        if not needs_dispatcher(self, options):
            return super().apply_async(args, kwargs, task_id, producer, link, link_error, shadow, **options)

        def publish(producer: Any = producer, **options: Any) -> Any:
            return super(Job, self).apply_async(
                args, kwargs, producer=producer, link=link, link_error=link_error, shadow=shadow, **options
            )

        is_plain = link is None and link_error is None and shadow is None
        return dispatch(self, publish, args, kwargs, task_id, link, options, producer=producer, is_plain=is_plain)

    def delay_if(self, condition: Any, *args: Any, **kwargs: Any) -> Any:
        """Dispatch the job if a condition holds: a value, or a callable without arguments. None when it does not."""
        return self.delay(*args, **kwargs) if is_met(condition) else None

    def delay_unless(self, condition: Any, *args: Any, **kwargs: Any) -> Any:
        """Dispatch the job unless a condition holds: a value, or a callable without arguments. None when it does."""
        return None if is_met(condition) else self.delay(*args, **kwargs)

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

    def retry(  # noqa: PLR0917  Celery's own signature
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: Any = None,
        throw: bool = True,
        eta: Any = None,
        countdown: Any = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Any:
        """Celery's ``retry``. Of a job, the state ``RETRY`` is stored before the message goes out, and not after."""
        request = self.request
        running: RunningJob | None = request.__dict__.get(RUNNING)
        most = self.max_retries if max_retries is None else max_retries
        if running is not None and (most is None or request.retries < most):
            store_retry(self, request, running, exc)
        return super().retry(args, kwargs, exc, throw, eta, countdown, max_retries, **options)

    def on_replace(self, sig: Signature) -> Any:
        """Hand a batch's member over to the signature that takes this job's place (Celery's ``replace``)."""
        running: RunningJob | None = self.request.__dict__.get(RUNNING)
        if running is not None:
            if running.header.batch_id is not None:
                hand_over(self._runtime.store, running, sig)
            running.is_replaced = True
            self._runtime.settlement.free_unique_lock(self, running)  # the other job, of the same id, has its own
            self._runtime.settlement.forgotten(running)
        return super().on_replace(sig)

    def _attempt(self, request: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        runtime = self._runtime
        is_managed = not self._is_plain(request, runtime)
        if is_managed:
            reveal_redelivery(request)
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

    def _refreshed(self, request: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A callback's arguments, with the batch as it stands now instead of when the callback was sent."""
        if not args or not isinstance(args[0], Batch) or not is_callback(request.headers):
            return args
        batch = args[0].bound_to(self.app)
        return (batch.fresh() or batch, *args[1:])


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
