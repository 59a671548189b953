"""The task that runs closures, and what is done when one has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_laravel.dispatch.closures import PendingClosure
from celery_laravel.errors import InvalidSignatureError
from celery_laravel.message.arguments import ExceptionArgument
from celery_laravel.message.callbacks import send_callback
from celery_laravel.message.closures import TASK, require_keys, unpack
from celery_laravel.message.exceptions import exception_to_data
from celery_laravel.message.header import read_header
from celery_laravel.settings import settings_of

if TYPE_CHECKING:
    from celery import Celery


def add_closure_task(app: Celery, base: type) -> None:
    """Give an app that has a ``laravel_secret_key`` the job, of class ``base``, that runs closures; once is enough."""
    if settings_of(app).secret_key and TASK not in app.tasks:
        app.task(name=TASK, base=base, bind=True, typing=False, shared=False, failed=_failed)(_run)


def _run(job: Any, *args: Any, closure: str) -> Any:
    """Verify a closure and call it with what its job was given.

    Raises:
        InvalidSignatureError: It was not signed for this job; nothing was unpickled.
    """
    function, _ = _content(job, closure)
    return function(*args)


def _failed(job: Any, error: BaseException, *_: Any, closure: str) -> None:
    """Send what is to catch a failed closure's exception, each as a job of its own, under ids made from the job's."""
    if isinstance(error, InvalidSignatureError):
        return
    _, catches = _content(job, closure)
    turn = read_header(job.request.headers).turn
    argument = ExceptionArgument(exception_to_data(error))
    for position, catch in enumerate(catches):
        task_id = f"{job.request.id}:catch:{turn}:{position}"
        data = catch if isinstance(catch, dict) else PendingClosure(job.app, catch).signature(task_id, immutable=False)
        send_callback(job.app, data, task_id, argument)


def _content(job: Any, closure: str) -> Any:
    return unpack(closure, keys=require_keys(settings_of(job.app).secret_key), task_id=job.request.id)
