"""The group of commands that ``celery`` finds as its ``laravel``."""

from __future__ import annotations

from typing import Any

import click

from celery_laravel.cli.batches import batch, batches, cancel_batch, close_batch, prune_batches, retry_batch
from celery_laravel.cli.delayed import cancel_delayed, delayed
from celery_laravel.cli.doctor import doctor
from celery_laravel.cli.exits import plain_errors
from celery_laravel.cli.failed_jobs import failed, flush, forget, prune_failed, retry
from celery_laravel.cli.locks import locks, unlock
from celery_laravel.cli.migrations import migrate
from celery_laravel.cli.session import open_session


class _Laravel(click.Group):
    """A group whose commands tell errors in a line, and are listed in the order in which they were added."""

    def invoke(self, ctx: click.Context) -> Any:
        with plain_errors(ctx.obj.app):
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Laravel)
@click.pass_context
def laravel(ctx: click.Context, /, **_: Any) -> None:
    """Failed jobs, batches, delayed jobs, locks and stores.

    Reading needs the store alone; but for doctor, no connection to the broker is opened.
    """
    ctx.obj = open_session(ctx)


_FAILED_JOBS = (failed, retry, forget, flush, prune_failed)
_BATCHES = (batches, batch, retry_batch, cancel_batch, close_batch, prune_batches)
_DELAYED_JOBS = (delayed, cancel_delayed)
for _command in (*_FAILED_JOBS, *_BATCHES, *_DELAYED_JOBS, locks, unlock, migrate, doctor):
    laravel.add_command(_command)
