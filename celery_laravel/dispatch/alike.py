"""Which messages are alike, so that Celery need make only the first of them."""

from __future__ import annotations

import sys
from datetime import datetime
from types import FunctionType
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from celery.app.amqp import AMQP
from celery.app.routes import MapRoute
from celery.signals import after_task_publish, before_task_publish, task_sent
from kombu import Producer

from celery_laravel import events

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from celery.canvas import Signature

PLAIN_VALUES = (str, int, float, datetime, type(None))
CHECKS_BY_NAME = "_laravel_checks_by_name"
"""What the library's own ``send_task`` of an app has for an attribute."""

_OVERRIDABLE = ("apply_async", "_get_exec_options", "shadow_name")
_MAKERS = (
    *((Celery, "send_task"), (Task, "apply_async"), (Task, "_get_exec_options")),
    *((AMQP, "as_task_v2"), (AMQP, "_create_task_sender"), (Producer, "publish")),
)
"""What makes a task's message, one after the other."""


def kind_of(signature: Signature) -> Hashable:
    """What single tasks must have in common for their messages to be alike."""
    options = signature["options"]
    return (signature["task"], *options.items()) if options else signature["task"]


def is_seen_by_anyone() -> bool:
    """Whether somebody is to see every single message."""
    return bool(
        before_task_publish.receivers
        or after_task_publish.receivers
        or task_sent.receivers
        or events.job_queueing.receivers
        or events.job_queued.receivers
    )


def may_differ_by_message(app: Celery) -> bool:
    """Whether somebody is to see, or may change, every single message: then Celery makes each."""
    return bool(
        is_seen_by_anyone()
        or app.conf.task_send_sent_event
        or any(not isinstance(route, MapRoute) for route in app.amqp.router.routes)
    )


def is_uniform(app: Celery, signature: Mapping[str, Any]) -> bool:
    """Whether the messages of a signature differ in nothing but arguments, as far as task and options tell."""
    task = app.tasks.get(signature["task"])
    return (
        task is not None
        and is_uniform_task(task)
        and all(isinstance(value, PLAIN_VALUES) for value in signature["options"].values())
    )


def is_uniform_task(task: Any) -> bool:
    """Whether the messages of a task differ in nothing but arguments and options."""
    if callable(task.job_options.retry_until) or getattr(task, "_dump_pydantic_arguments", None) is not None:
        return False
    return not any(_is_users_own(type(task), name) for name in _OVERRIDABLE)


def is_made_by_celery_alone(app: Celery) -> bool:
    """Whether nobody has put something of their own in the place of what makes messages, as tools that trace do."""
    own = vars(app).get("send_task")
    return (
        (own is None or checks_by_name(own))
        and type(app).send_task is Celery.send_task
        and type(app.amqp) is AMQP
        and all(_is_as_written(cls, name) for cls, name in _MAKERS)
    )


def checks_by_name(send_task: Any) -> bool:
    """Whether this is the library's own, and not what a tool has made of it, which may look like it."""
    return hasattr(send_task, CHECKS_BY_NAME) and not hasattr(send_task.__wrapped__, CHECKS_BY_NAME)


def _is_as_written(cls: type, name: str) -> bool:
    function = vars(cls)[name]  # what wraps one may look like it in all but its code or its type
    return type(function) is FunctionType and function.__code__.co_filename == sys.modules[cls.__module__].__file__


def _is_users_own(cls: type[Task], name: str) -> bool:
    """Whether a class of the user's defines a method that decides what is sent."""
    owner = next(base for base in cls.__mro__ if name in vars(base))
    return owner.__module__.partition(".")[0] not in {"celery", "celery_laravel"}
