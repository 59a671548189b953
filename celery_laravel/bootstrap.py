"""``install(app)``: one line that makes every task of a Celery app a `Job`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from celery import Task
from celery.app.registry import TaskRegistry
from celery.utils.imports import symbol_by_name

from celery_laravel.dispatch.by_name import check_sending_by_name, leave_sending_alone
from celery_laravel.dispatch.parking import park_long_delays
from celery_laravel.errors import ConfigurationError
from celery_laravel.job import Job
from celery_laravel.operations.chained_batches import add_batch_task
from celery_laravel.operations.closures import add_closure_task
from celery_laravel.operations.delayed import remember_revocations
from celery_laravel.operations.packs import add_pack_task
from celery_laravel.runtime import runtime_of
from celery_laravel.settings import settings_of
from celery_laravel.transport.selection import choose_connections

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from celery import Celery

_CELERYS_TASK = "celery.app.task:Task"
_JOB = "celery_laravel:Job"
_ATTEMPT_OPTIONS = "celery_laravel.bootsteps.attempt_options:AttemptOptions"
_DELAYS = "celery_laravel.bootsteps.delays:Delays"
_DUE_CALLBACKS = "celery_laravel.bootsteps.due_callbacks:DueCallbacks"
_LEASES = "celery_laravel.bootsteps.leases:Leases"
_REPORT = "celery_laravel.bootsteps.report:Report"
_SHARED_MEMORY = "celery_laravel.bootsteps.memory:SharedMemory"
_PACKS = "celery_laravel.bootsteps.packs:Packs"
_UNDELIVERABLE = "celery_laravel.bootsteps.undeliverable:Undeliverable"
_BAD_MESSAGES = "celery_laravel.bootsteps.bad_messages:BadMessages"

_MEANT_IN_URLS = {"?", ";", "%"}

_installed: WeakSet[Celery] = WeakSet()


def install(app: Celery) -> Celery:
    """Make every task of an app a `Job`, and return the app.

    Works before or after tasks are declared; installing twice changes nothing.
    Celery's own tasks (``celery.*``) are left alone. The app's configuration is
    not read here: settings are checked when the app is finalised (as it is when
    a worker starts), or when the store is first needed.

    A task whose base class is the user's own keeps that class; `Job` is put
    behind it, in front of Celery's `Task`.

        app = Celery("shop", broker="redis://localhost:6379/0")
        install(app)

    Raises:
        ConfigurationError: The app has been finalised, and a setting or a
            task's option is wrong.
    """
    if app in _installed:
        return app
    _installed.add(app)
    if app.task_cls in {_CELERYS_TASK, Task}:  # one of the user's own stays, and its tasks are adopted
        app.task_cls = _JOB
        app.__dict__.pop("Task", None)  # a cached property: classes made of the old one are adopted below
    tasks = app._tasks  # noqa: SLF001  Celery offers no hook between making a task and binding it
    tasks.__class__ = type(
        type(tasks).__name__, (_AdoptsTasks, type(tasks)), {}
    )  # in place: Celery keeps it in several
    for task in list(tasks.values()):
        if _adopt(task) and task.__bound__:
            task.bind(app)
    app.steps["worker"].update((_ATTEMPT_OPTIONS, _SHARED_MEMORY))
    app.steps["consumer"].update((_DELAYS, _DUE_CALLBACKS, _LEASES, _PACKS, _REPORT, _UNDELIVERABLE))
    app.steps["consumer"].add(_BAD_MESSAGES)
    app.user_options["worker"] = _WorkerOptions(app.user_options["worker"])
    choose_connections(app)
    park_long_delays(app)
    remember_revocations(app)
    check_sending_by_name(app)
    app.on_after_finalize.connect(_add_jobs, dispatch_uid="celery_laravel.jobs")
    if app.finalized:
        _add_jobs(app)
        settings_of(app)
    return app


def embedded(app: Celery, path: str | os.PathLike[str]) -> Celery:
    """Point an app at the embedded default, and return the app.

    Broker, results and store are SQLite files in the folder ``path``, which is
    made if it is missing. Nothing is installed: whether this comes before or
    after `install` makes no difference. Meant for one machine; the files must
    not lie on a network share.

    Raises:
        ConfigurationError: The path holds a character that has a meaning in URLs.
    """
    folder = Path(path).resolve()
    if found := _MEANT_IN_URLS.intersection(str(folder)):
        msg = (
            f"embedded({str(path)!r}): the path {str(folder)!r} holds {', '.join(map(repr, sorted(found)))}, which "
            "would be taken for the end of it in a URL. Choose a folder without."
        )
        raise ConfigurationError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    app.conf.update(
        broker_url=f"database+sqlite:///{folder / 'broker.db'}",
        result_backend=f"db+sqlite:///{folder / 'results.db'}",
        laravel_store=f"sqlite:///{folder / 'store.db'}",
    )
    runtime_of(app).forget()
    return app


def _add_jobs(sender: Celery, **_: Any) -> None:
    """Give an app the library's own jobs."""
    add_batch_task(sender, Job)
    add_closure_task(sender, Job)
    add_pack_task(sender, Job)
    leave_sending_alone(sender)


class _AdoptsTasks(TaskRegistry):
    """A registry of tasks that makes a Job of each one that is put into it."""

    def __setitem__(self, name: str, task: Task) -> None:
        _adopt(task)
        super().__setitem__(name, task)


class _WorkerOptions(set[Any]):
    """The options that ``celery worker`` gains; made when the command line asks, which no other process does."""

    _made = False

    def __iter__(self) -> Iterator[Any]:
        if not self._made:
            self._made = True
            self.update(symbol_by_name("celery_laravel.bootsteps.attempt_options:worker_options")())
        return super().__iter__()


def _adopt(task: Any) -> bool:
    """Put `Job` behind a task's own class; True if that changed it. Celery's own tasks stay as they are."""
    if isinstance(task, Job) or str(task.name).startswith("celery."):
        return False
    cls = type(task)
    attributes = {"__module__": cls.__module__, "__doc__": cls.__doc__, "abstract": False, "adopted": cls}
    task.__class__ = type(cls.__name__, (cls, Job), attributes)
    return True
