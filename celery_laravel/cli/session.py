"""What every command has at hand: the app, its bus and the output."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kombu.utils.imports import symbol_by_name

from celery_laravel.bus import Bus
from celery_laravel.cli.exits import CommandError, Exit
from celery_laravel.cli.output import Output
from celery_laravel.job import Job

if TYPE_CHECKING:
    import click
    from celery import Celery

    from celery_laravel.operations.failed_jobs import FailedJobs


class Session:
    """One call of ``celery -A app laravel …``."""

    def __init__(self, app: Celery, *, no_color: bool = False) -> None:
        self.app = app
        self.output = Output(no_color=no_color)
        self.bus = Bus(app)

    @cached_property
    def failed(self) -> FailedJobs:
        """The app's failed jobs."""
        failed: FailedJobs = self.bus.failed
        return failed

    def load_tasks(self) -> None:
        """Import the modules of the app's tasks, as a worker does: a job that is sent again goes by its task's options.

        Raises:
            CommandError: One of them cannot be imported.
        """
        try:
            self.app.loader.import_default_modules()
        except Exception as error:
            msg = f"The app's tasks cannot be imported: {type(error).__name__}: {error}. Does its worker start?"
            raise CommandError(msg, Exit.MISCONFIGURED) from error

    def try_to_load_tasks(self, without: str) -> None:
        """`load_tasks`; where they cannot be imported, say what is done ``without`` them."""
        try:
            self.load_tasks()
        except CommandError as error:
            self.output.note(f"{without}: {error.message}")


def session_of(ctx: click.Context) -> Session:
    """The session that the group opened for its command."""
    session: Any = ctx.find_object(Session)
    assert isinstance(session, Session)
    return session


def open_session(ctx: click.Context) -> Session:
    """Open a session for the app that ``-A`` named.

    Raises:
        CommandError: None of the app's tasks is a `Job`, so nothing that these
            commands speak of can ever be there.
    """
    app, no_color = ctx.obj.app, bool(ctx.obj.no_color)
    if not _is_installed(app):
        msg = (
            f"celery-laravel is not installed in the app {app.main or 'default'!r}. Write "
            "`from celery_laravel import install` and `install(app)` where the app is made, "
            "and name that app: celery -A module laravel …"
        )
        raise CommandError(msg, Exit.MISCONFIGURED)
    # Errors are told in a line; without a handler, logging would print their tracebacks beside it.
    logging.getLogger("celery_laravel").addHandler(logging.NullHandler())
    return Session(app, no_color=no_color)


def _is_installed(app: Celery) -> bool:
    """Whether the app's tasks are Jobs by default, or any of them is one."""
    base = symbol_by_name(app.task_cls)
    if isinstance(base, type) and issubclass(base, Job):
        return True
    return any(isinstance(task, Job) for task in app.tasks.values())
