"""Jobs that may run for longer than their broker waits for the end of a job."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_laravel.worker.defaults import defaults_of, timeout_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery import Celery

logger = logging.getLogger(__name__)

_NOT_THE_USERS = ("celery_laravel.", "celery.")
_LONGEST_PEEK_LOCK = 300.0
"""Seconds that Azure Service Bus locks a message for at most."""


@dataclass(frozen=True)
class BrokerWait:
    """How long a broker waits before it delivers a message again that is not acknowledged.

    ``option`` says so in ``broker_transport_options``.
    """

    seconds: float
    option: str
    remedy: str

    def advice(self, jobs: Iterable[LongJob]) -> str:
        """How to have it wait for these jobs."""
        return self.remedy.format(longest=max(job.limit for job in jobs))


@dataclass(frozen=True)
class LongJob:
    """A task whose attempts may last as long as its broker waits, or longer.

    ``is_always_late`` is False where only some of its messages are
    acknowledged when the attempt has ended: those of batches, and of chains
    with ``catch``.
    """

    name: str
    limit: float
    is_always_late: bool

    def __str__(self) -> str:
        """The task and its limit, in a line."""
        when = "" if self.is_always_late else ", when it is in a batch, or a chain with catch"
        return f"{self.name} ({self.limit:g} s{when})"


def warn_of_long_jobs(app: Celery) -> None:
    """Log the jobs that `long_jobs` finds, each in a line."""
    wait, too_long = long_jobs(app)
    if wait is not None and too_long:
        logger.warning(
            "The broker delivers a job again after %g s (%s), although it still runs. "
            "These may run for as long or longer:\n  %s\n%s",
            wait.seconds,
            wait.option,
            "\n  ".join(str(job) for job in too_long),
            wait.advice(too_long),
        )


def long_jobs(app: Celery) -> tuple[BrokerWait | None, list[LongJob]]:
    """How long the broker waits, and the tasks with late-acknowledged messages whose time limit is not shorter.

    Such a broker delivers a job again that still runs. There are none for one
    that waits for as long as the worker lives, nor for those whose workers
    renew what they hold. Of a task's limits the hard one counts, as it ends the
    job for certain.
    """
    wait = broker_wait(app)
    if wait is None:
        return None, []
    found = []
    for name, task in sorted(app.tasks.items()):
        limit = None if name.startswith(_NOT_THE_USERS) or not _may_be_late(task) else limit_of(app, task)
        if limit is not None and limit >= wait.seconds:
            found.append(LongJob(name, limit, is_always_late=bool(task.acks_late)))
    return wait, found


def broker_wait(app: Celery) -> BrokerWait | None:
    """How long the app's broker waits for a worker that lives; None where it does not matter, or where it does not say.

    It does not matter to RabbitMQ's connections, nor to Google Pub/Sub, whose
    deadline kombu puts off for as long as a worker holds a message.
    """
    connection = app.connection_for_read()
    transport = connection.get_transport_cls()
    if getattr(transport, "renews_what_it_holds", False):
        return None
    options, channel = connection.transport_options or {}, getattr(transport, "Channel", None)
    if hasattr(channel, "default_peek_lock_seconds"):
        return _service_bus_wait(options, channel)
    name = "visibility_timeout"
    seconds = _seconds(options.get(name), *(getattr(channel, key, None) for key in (name, f"default_{name}")))
    return None if seconds is None else BrokerWait(seconds, name, _more_than_the_longest(name))


def _service_bus_wait(options: Mapping[str, Any], channel: Any) -> BrokerWait:
    name, renewal, duration = "peek_lock_seconds", "use_lock_renewal", "max_lock_renewal_duration"
    locked = _seconds(options.get(name), channel.default_peek_lock_seconds) or 0.0
    can_renew = hasattr(channel, f"default_{renewal}")
    if can_renew and options.get(renewal):
        renewed = _seconds(options.get(duration), getattr(channel, f"default_{duration}")) or 0.0
        return BrokerWait(renewed, duration, _more_than_the_longest(duration))
    remedy = (
        f"Set {renewal} in broker_transport_options to True, and {duration} to more than {{longest:g}}."
        if can_renew
        else f"Set {name} in broker_transport_options, {_LONGEST_PEEK_LOCK:g} at most, or have the jobs take less time."
    )
    return BrokerWait(min(locked, _LONGEST_PEEK_LOCK), name, remedy)


def _more_than_the_longest(option: str) -> str:
    return f"Set {option} in broker_transport_options to more than {{longest:g}}."


def _seconds(*values: Any) -> float | None:
    """The first that is a time: options may have come from the environment as text, and classes have descriptors."""
    for value in values:
        if isinstance(value, (int, float, str)) and value:
            seconds = float(value)
            if seconds > 0:
                return seconds
    return None


def _may_be_late(task: Any) -> bool:
    """Whether a message of a task may be acknowledged when its attempt has ended (`job_strategy`)."""
    return bool(task.acks_late) or (hasattr(task, "job_options") and not task.declares_acks_late)


def limit_of(app: Celery, task: Any) -> float | None:
    """Seconds after which an attempt of a task is ended, or None: its hard time limit, else its timeout or soft one."""
    options = getattr(task, "job_options", None)
    timeout = None if options is None else timeout_of(options, defaults_of(app))
    hard = task.time_limit or app.conf.task_time_limit
    soft = timeout or task.soft_time_limit or app.conf.task_soft_time_limit
    limit = hard or soft
    return None if limit is None else float(limit)
