"""How the worker's parent takes a job's message: Celery's own strategy, with the limits that hold for this job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.worker.strategy import default

from celery_laravel.message.header import NAME
from celery_laravel.worker.defaults import defaults_of, timeout_of

if TYPE_CHECKING:
    from collections.abc import Callable


BACKSTOP = 30.0
"""Seconds that code which catches its timeout's exception may take beyond it, before its process is killed."""


def job_strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """The handler of a job's messages, made when the worker starts.

    Celery reads the time limit and the kind of acknowledgement from the task,
    so the handlers are made with copies of it. A message of a batch's member, of
    its callback, or of a step whose chain has callbacks, is acknowledged late
    unless its task declares ``acks_late``, so that a worker's death cannot leave
    the batch waiting for ever, or the chain's failure uncaught.

    A timeout is a soft limit, which code may swallow. Where no hard limit is
    declared, one stands `BACKSTOP` behind it (`JobRequest.on_timeout`).
    """
    limited = twin_of(task)
    timeout = timeout_of(task.job_options, defaults_of(app))
    if timeout is not None:
        limited.soft_time_limit = timeout
        if not (task.time_limit or app.conf.task_time_limit):
            limited.time_limit, limited.has_backstop = timeout + BACKSTOP, True
    plain: Callable[..., Any] = default(limited, app, consumer, **options)
    if limited.acks_late or task.declares_acks_late:
        return plain
    surviving = twin_of(limited)
    surviving.acks_late = surviving.reject_on_worker_lost = True
    late: Callable[..., Any] = default(surviving, app, consumer, **options)

    def handler(message: Any, *args: Any, **kwargs: Any) -> Any:
        header = (message.headers or {}).get(NAME)
        is_followed = isinstance(header, dict) and any(header.get(key) for key in ("batch_id", "callback", "chain"))
        return (late if is_followed else plain)(message, *args, **kwargs)

    return handler


def twin_of(task: Any) -> Any:
    """Another instance of a task with the same attributes; `copy.copy` would give the registered one back."""
    twin = object.__new__(type(task))
    twin.__dict__.update(task.__dict__)
    return twin
