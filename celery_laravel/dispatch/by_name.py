"""``app.send_task`` of a job that this process knows: unique and debounced jobs are checked there too."""

from __future__ import annotations

import inspect
from functools import wraps
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from celery_laravel.dispatch.alike import CHECKS_BY_NAME, checks_by_name
from celery_laravel.dispatch.connections import OPTION
from celery_laravel.dispatch.dispatcher import dispatch, refuse_what_is_not_there
from celery_laravel.errors import ConfigurationError

if TYPE_CHECKING:
    from celery import Celery

_checked: WeakSet[Celery] = WeakSet()


def check_sending_by_name(app: Celery) -> None:
    """Let ``app.send_task`` check the jobs of this process that are unique or debounced. Twice is once.

    Called when the library is installed, as it is not known then which jobs
    there will be, and for each app that has such a job; those that turn out to
    have none get Celery's own method back (`leave_sending_alone`). A name that
    this process does not know cannot be checked.
    """
    if app in _checked:
        return
    _checked.add(app)
    own = vars(app).get("send_task")
    parameters = inspect.signature(app.send_task)

    def send(*given: Any, **options: Any) -> Any:  # by way of the class: tools that trace wrap its method, even later
        return type(app).send_task(app, *given, **options) if own is None else own(*given, **options)

    @wraps(app.send_task)
    def send_task(name: str, *given: Any, **options: Any) -> Any:
        if not app.finalized and app.autofinalize:  # or tasks that have been declared are not known yet
            app.finalize(auto=True)
        task = None if options.get("task_type") is not None else app._tasks.get(name)  # noqa: SLF001  finalized above
        if task is None or not _is_checked(task):
            return send(name, *given, **options)
        bound = parameters.bind(name, *given, **options).arguments
        bound.update(bound.pop("options", {}))
        args, kwargs, task_id, link = (bound.pop(key, None) for key in ("args", "kwargs", "task_id", "link"))
        del bound["name"]
        refuse_what_is_not_there(task, bound)
        if bound.pop(OPTION, None) is not None:
            msg = f"send_task({name!r}, …, {OPTION}=…) would go to the app's own broker. Use apply_async of the task."
            raise ConfigurationError(msg)

        def publish(**options: Any) -> Any:
            return send(name, args, kwargs, link=link, **options)

        return dispatch(task, publish, args, kwargs, task_id, link, bound)

    setattr(send_task, CHECKS_BY_NAME, own)
    app.send_task = send_task


def leave_sending_alone(app: Celery) -> None:
    """Give Celery's own ``send_task`` back to an app that has been finalized and has no job to be checked."""
    if any(map(_is_checked, app._tasks.values())):  # noqa: SLF001  it is being finalized
        return
    ours: Any = vars(app).get("send_task")
    if not checks_by_name(ours):  # a tool has wrapped it
        return
    _checked.discard(app)
    own = getattr(ours, CHECKS_BY_NAME)
    if own is None:
        del app.send_task
    else:
        app.send_task = own


def _is_checked(task: Any) -> bool:
    options = getattr(task, "job_options", None)
    return options is not None and options.is_checked_at_dispatch
