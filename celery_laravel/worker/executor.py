"""One attempt of a job: begin, work, decide."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from celery_laravel import clock, events
from celery_laravel.attempt import unique
from celery_laravel.attempt.deadline import deadline_of
from celery_laravel.attempt.outcome import Failed, Outcome, PassedOn
from celery_laravel.attempt.ownership import owner_of
from celery_laravel.attempt.packed import place_of
from celery_laravel.attempt.retry_policy import Counts, Limits, backoff_delay, decide, may_start
from celery_laravel.attempt.running_job import RunningJob
from celery_laravel.errors import ConfigurationError, InvalidMessageError, JobTimedOutError, MaxAttemptsExceededError
from celery_laravel.message.durations import in_seconds, is_seconds
from celery_laravel.message.functions import is_async
from celery_laravel.message.header import Header, read_header
from celery_laravel.middleware.intervention import telling
from celery_laravel.middleware.pipeline import send_through
from celery_laravel.worker.defaults import timeout_of
from celery_laravel.worker.exceeded import exceeded
from celery_laravel.worker.starting import NotStarted, start, started, was_kept_waiting, write_down_when_long

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from celery_laravel.attempt.packed import PackPlace
    from celery_laravel.message.options import JobOptions
    from celery_laravel.stores.contracts import Store
    from celery_laravel.stores.records import AttemptStart
    from celery_laravel.worker.defaults import AttemptDefaults

MAX_STARTS = 3
"""How often a job that declares no limit is started when its worker is lost each time: a unique one, a batch's member
or callback, a step of a chain with ``catch``."""

CELERYS_OWN = (Retry, Ignore, Reject)


class Executor:
    """Runs attempts. It raises nothing of its own: every end of an attempt is an `Outcome`, save a process's exit."""

    def __init__(self, defaults: AttemptDefaults, store: Callable[[], Store]) -> None:
        self.defaults = defaults
        self._store = store

    def may_still_start(self, running: RunningJob) -> bool:
        """Whether an attempt that has begun keeps to its job's limits."""
        return may_start(running.limits, running.counts.attempt, now=clock.now())

    def is_used_up(self, running: RunningJob) -> bool:
        """Whether an attempt that has begun is to fail before its code, as its job has been started too often."""
        failure = running.verdict.failure
        if failure is not None:
            return isinstance(failure, MaxAttemptsExceededError)
        return not self.may_still_start(running)

    def run(self, task: Any, running: RunningJob, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        """Run an attempt that has begun through its middleware, and decide how it ends."""
        events.send(events.job_processing, task, task_id=running.id, args=args, kwargs=kwargs)
        if running.verdict.failure is not None:  # it must not run at all
            running.is_refused = True
            running.outcome = Failed(running.verdict.failure)
            return self._report(task, running, running.verdict.failure, args, kwargs)
        if not self.may_still_start(running):
            running.is_refused = True
            error = exceeded(task, running)
            running.outcome = Failed(error)
            return self._report(task, running, error, args, kwargs)
        try:
            with self._limited(task, running):
                middleware = telling(_middleware(task, running.options, args, kwargs))
                value = send_through(middleware, task, _Code(running, args, kwargs))
        except CELERYS_OWN as signal:
            running.outcome = PassedOn(signal)
            return running.outcome
        except Exception as error:
            return self.judge(task, running, args, kwargs, error=error)
        return self.judge(task, running, args, kwargs, value=value)

    def judge(
        self,
        task: Any,
        running: RunningJob,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        value: Any = None,
        error: BaseException | None = None,
    ) -> Outcome:
        """Decide how an attempt ends that returned ``value`` or raised ``error``, and announce the exception."""
        timeout = timeout_of(running.options, self.defaults)
        timed_out = isinstance(error, SoftTimeLimitExceeded) and timeout is not None
        if timed_out:
            error = _timed_out(task, timeout, error)
            events.send(events.job_timed_out, task, task_id=running.id, args=args, kwargs=kwargs, exception=error)
        try:
            running.outcome = decide(
                running.limits,
                running.counts,
                running.verdict,
                value=value,
                error=error,
                timed_out=timed_out,
                now=clock.now(),
                backoff=lambda attempt, error: self._backoff(task, running.options, attempt, error),
            )
        except Exception as broken:
            broken.__context__ = error
            running.outcome = Failed(broken)
        return running.outcome if error is None else self._report(task, running, error, args, kwargs)

    def begin(self, task: Any, request: Any, *, is_sync: bool = False) -> RunningJob | NotStarted:
        """Read what the message says, and for a durable job write down that an attempt starts.

        Raises:
            StoreUnavailableError: The start could not be written down, so the
                job must not run.
        """
        header, broken = _read(request)
        limits = Limits()
        try:
            limits = self.limits_of(task, request, header, is_sync=is_sync)
        except Exception as error:  # a retry_until method of the user's may raise anything
            broken = broken or error
        place = place_of(request)
        are_counted = _are_starts_counted(task, header, place)
        if place is not None:
            header = replace(header, is_counted=True)  # of its next message, while the pack's may come again
        is_suspect = not are_counted and _came_again(task, request, header)
        lost = int(is_suspect)  # a start of which the store knows nothing
        counts = Counts(header.attempts + lost + 1, header.exceptions)
        is_durable = (are_counted or is_suspect) and not request.is_eager
        owner, lease = owner_of(request), unique.lease_for(task, header, request.id)
        if is_durable:
            joined = lease if task.job_options.unique_via is None else None

            def begin(behind: int = counts.attempt - 1) -> AttemptStart | NotStarted:
                return start(self._store(), task, request.id, owner, header, behind, limits, joined)

            answer = begin() if place is None else place.ask_store(begin)
            if isinstance(answer, NotStarted):
                return answer
            counts = Counts(answer.attempt, answer.exceptions)
            lease = None if lease is joined else lease
            header = started(header) if lease is None else header
        if broken is None and _was_lost_too_often(header, limits, counts, is_suspect=is_suspect):
            broken = MaxAttemptsExceededError(
                f"{task.name} has lost its worker {MAX_STARTS} times, and is not started again."
            )
        running = RunningJob(
            request.id,
            task.job_options,
            header,
            counts,
            limits,
            is_durable=is_durable,
            is_sync=is_sync,
            owner=owner,
            lease=lease,
            place=place,
        )
        running.verdict.failure = broken
        if header.is_followed and not (is_durable or request.is_eager or task.declares_acks_late):
            write_down_when_long(self._store(), running)
        return running

    def limits_of(self, task: Any, request: Any, header: Header, *, is_sync: bool = False) -> Limits:
        """The limits that hold for this message: the job's own, else the worker's, else the settings'."""
        options: JobOptions = task.job_options
        deadline = header.deadline
        if deadline is None and options.retry_until is not None:
            deadline = deadline_of(task, request.args or (), request.kwargs or {})
        if is_sync:
            return Limits(tries=1, fail_on_timeout=options.fail_on_timeout)
        tries = options.tries
        if tries is None and not options.retries_by_celery:
            tries = self.defaults.tries
        return Limits(tries, options.max_exceptions, deadline, options.fail_on_timeout)

    def _limited(self, task: Any, running: RunningJob) -> AbstractContextManager[Any]:
        """What ends the attempt when its timeout has passed, where the worker's pool does not."""
        limit_time, timeout = self.defaults.limit_time, timeout_of(running.options, self.defaults)
        if limit_time is None or timeout is None or running.is_sync or task.request_stack.top.is_eager:
            return nullcontext()
        return limit_time(timeout)

    def _backoff(self, task: Any, options: JobOptions, attempt: int, error: BaseException) -> float:
        backoff = self.defaults.backoff if options.backoff is None else options.backoff
        if not callable(backoff):
            return backoff_delay(backoff, attempt)
        delay = in_seconds(backoff(task, attempt, error))
        if not is_seconds(delay):
            wrong = f"backoff returned {delay!r} for attempt {attempt}"
            raise ConfigurationError(f"Task {task.name!r}: {wrong}; it must return seconds, not negative.")
        return float(delay)

    def _report(self, task: Any, running: RunningJob, error: BaseException, args: Any, kwargs: Any) -> Outcome:
        running.raised = error
        events.send(events.job_exception_occurred, task, task_id=running.id, args=args, kwargs=kwargs, exception=error)
        assert running.outcome is not None
        return running.outcome


class _Code:
    """The innermost step: the job's own code. A job that is unique while it is queued stops being so here."""

    __slots__ = ("_args", "_kwargs", "_running")

    def __init__(self, running: RunningJob, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._running, self._args, self._kwargs = running, args, kwargs

    def __call__(self, task: Any) -> Any:
        self._running.code_ran = True
        unique.begin_processing(task, self._running)
        return task.run_code(*self._args, **self._kwargs)


def _middleware(task: Any, options: JobOptions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Any]:
    middleware = options.middleware
    if not callable(middleware):
        return middleware  # type: ignore[no-any-return]
    found = middleware(task, *args, **kwargs)
    if found is None:
        return ()
    if not isinstance(found, (list, tuple)) or not all(map(_is_layer, found)):
        wanted = "it must return a list of callables (job, next), instances and not classes nor async"
        msg = f"Task {task.name!r}: middleware() returned {found!r}; {wanted}."
        raise ConfigurationError(msg)
    return found


def _is_layer(value: Any) -> bool:
    return callable(value) and not isinstance(value, type) and not is_async(value)


def _read(request: Any) -> tuple[Header, Exception | None]:
    """The message's header; one that cannot be read fails the job and no other."""
    try:
        return read_header(request.headers), None
    except InvalidMessageError as error:
        return Header(), error


def _are_starts_counted(task: Any, header: Header, place: PackPlace | None) -> bool:
    """Whether each start of the job is written down, as its task, or what its message says, asks for."""
    is_again = place is not None and place.is_again
    return bool(task.counts_starts or header.callback is not None or header.is_counted or is_again)


def _came_again(task: Any, request: Any, header: Header) -> bool:
    """Whether this is a batch's member, or a chain's step, of which the broker says that it was delivered before.

    Either is put back when its worker is lost, even one that declares no
    limit; its starts are counted from then on, so that one which kills its
    worker every time comes to an end. A copy that was put back, because another
    such start runs, is a new message to the broker.
    """
    if not header.is_followed or request.is_eager or task.declares_acks_late:
        return False
    return bool((request.delivery_info or {}).get("redelivered")) or was_kept_waiting(header)


def _was_lost_too_often(header: Header, limits: Limits, counts: Counts, *, is_suspect: bool) -> bool:
    """Whether a job that nothing else would end has been started too often, each time losing its worker."""
    if is_suspect:
        return counts.attempt > MAX_STARTS
    is_counted_anyway = header.unique is not None or header.is_counted or header.callback is not None
    return limits.are_none and is_counted_anyway and counts.attempt - header.attempts > MAX_STARTS


def _timed_out(task: Any, timeout: float | None, cause: BaseException | None) -> JobTimedOutError:
    error = JobTimedOutError(f"{task.name} ran longer than its timeout of {timeout:g} seconds.")
    error.__cause__ = cause
    return error.with_traceback(None if cause is None else cause.__traceback__)
