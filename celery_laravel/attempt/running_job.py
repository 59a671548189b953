"""One attempt while it runs."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from celery_laravel.attempt.retry_policy import Counts, Limits, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_laravel.attempt.outcome import Outcome
    from celery_laravel.attempt.packed import PackPlace
    from celery_laravel.message.header import Header
    from celery_laravel.message.options import JobOptions
    from celery_laravel.stores.records import LockRequest


RUNNING = "_laravel"
"""The attribute of a request that holds its `RunningJob`; None for a plain task that has not asked for one."""


@dataclass(slots=True)
class RunningJob:
    """What is known of an attempt, and what it has said of itself so far.

    ``is_durable``: the store knows of this attempt, so that a crash of the
    worker counts. ``is_sync``: it runs in the caller, by ``dispatch_sync``.
    ``is_refused``: it has failed when it was picked up, and the attempt has not begun.
    ``code_ran``: every middleware let it pass and the job's own code began.
    ``is_managed``: something asks for this library, so that a failure is kept;
    one that runs in its caller is when that caller is a job of a worker's.
    ``owner`` is the token that its locks are held under, another one for every
    start; ``locks`` are the keys of those that are freed when the attempt ends.
    ``slots`` are the starts that limiters keep for the job, as in its header.
    ``is_handed_on``: the job has dispatched itself under its own id, so its
    unique lock is the next one's; ``is_unlocked``: that lock has been freed;
    ``is_replaced``: another signature goes on under its id (Celery's ``replace``);
    ``lease`` is the unique lock that it still has
    to take before it may run.
    ``following`` are the signatures that its chain is to go on with, should it
    succeed: each with whether it comes before all others, or after them.
    ``is_orphan``: its process is gone, and the worker's parent settles it, which
    may not wait; ``is_owed``: a part of its settling is with the broker, until the store is back.
    ``place`` is where it stands in a pack that is being run, if it does.
    ``is_retry_stored``: the state that it is put back has been stored, before its message went out.
    ``is_followed``: it has succeeded, and Celery is about to send what follows it.
    ``is_settled``: what follows its outcome has been done. ``raised`` is the
    exception that left the job's code or a middleware; ``released_by`` is what a
    middleware that has put the job back says of it.
    """

    id: str
    options: JobOptions
    header: Header
    counts: Counts
    limits: Limits
    is_durable: bool = False
    is_sync: bool = False
    is_managed: bool = True
    is_refused: bool = False
    code_ran: bool = False
    is_settled: bool = False
    outcome: Outcome | None = None
    verdict: Verdict = field(default_factory=Verdict)
    raised: BaseException | None = None
    owner: str = ""
    locks: list[str] = field(default_factory=list)
    slots: dict[str, Sequence[str]] = field(default_factory=dict)
    is_handed_on: bool = False
    is_unlocked: bool = False
    is_replaced: bool = False
    lease: LockRequest | None = None
    is_orphan: bool = False
    is_owed: bool = False
    is_retry_stored: bool = False
    is_followed: bool = False
    following: list[tuple[bool, Any]] = field(default_factory=list)
    place: PackPlace | None = None
    released_by: Any = None

    def __post_init__(self) -> None:
        self.slots.update(self.header.slots)

    def put_back(self, *, counts: bool, after_exception: bool) -> Header:
        """The header of the message that puts this job back; ``counts`` tells whether this attempt uses up a try."""
        return self.header.next_turn(
            attempts=self.counts.attempt - (not counts),
            exceptions=self.counts.exceptions + after_exception,
            deadline=self.limits.deadline,
            slots=dict(self.slots),
        )

    def has_slots(self, name: str, keys: Sequence[str]) -> bool:
        """Whether a limiter has told the job of a start of its own under all of these keys, be it past or to come."""
        return set(keys) <= set(self.slots.get(name, ()))

    def note_slots(self, name: str, keys: Sequence[str], *, are_kept: bool) -> None:
        """Note that a limiter keeps a start for the job under these keys, or keeps none any more."""
        held = [key for key in self.slots.get(name, ()) if key not in keys]
        if are_kept:
            held += keys
        if held:
            self.slots[name] = held
        else:
            self.slots.pop(name, None)


def running_of(job: Any) -> RunningJob:
    """The attempt that a job's task runs now; for middleware, which is called only while there is one."""
    running: RunningJob = job.request_stack.top.__dict__[RUNNING]
    return running


def bind_arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments by the names of a function's parameters, defaults included; those of ``**kwargs`` stand among them.

    Raises:
        TypeError: The function cannot be called so.
    """
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    return MappingProxyType(named)
