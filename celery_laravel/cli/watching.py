"""Following a batch to its end: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from celery_laravel.cli.exits import Exit
from celery_laravel.cli.text import count, visible

if TYPE_CHECKING:
    from rich.console import Console

    from celery_laravel.cli.output import Output
    from celery_laravel.dispatch.batch import Batch


def watch_batch(batch: Batch, output: Output, *, as_json: bool) -> Exit:
    """Show a batch's progress until it has finished, and say how it ended.

    Ctrl-C ends the watching and leaves the batch alone.

    Raises:
        BatchNotFoundError: It was deleted meanwhile.
    """
    last = batch
    try:
        if as_json:
            for last in batch.watch():
                click.echo(json.dumps(last.to_dict()))
        elif output.console is None:
            last = _lines(batch)
        else:
            last = _bar(batch, output.console)
    except KeyboardInterrupt:
        output.note("Stopped watching; the batch goes on.")
        return Exit.INTERRUPTED
    if not as_json:
        output.say(_ending(last))
    return Exit.UNSUCCESSFUL if last.has_failures or last.cancelled else Exit.OK


def _lines(batch: Batch) -> Batch:
    """A line for every per cent: enough to follow in a log, however many jobs there are."""
    last, shown = batch, (-1, False)
    for last in batch.watch():
        if (last.progress, last.finished) != shown:  # a hundred per cent may be a rounded ninety-nine
            shown = last.progress, last.finished
            failures = f", {last.failed_jobs:,} failed" if last.has_failures else ""
            click.echo(f"{last.progress:3d} %  {last.processed_jobs:,} of {count(last.total_jobs, 'job')}{failures}")
    return last


def _bar(batch: Batch, console: Console) -> Batch:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    last = batch
    columns = (
        TextColumn("{task.description}", markup=False, style="bold"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failures]}", style="red"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        name = Text(visible(batch.name or batch.id)).plain[: max(8, console.width // 3)]
        bar = progress.add_task(name, total=batch.total_jobs, failures="")
        for last in batch.watch():
            failures = f"{last.failed_jobs:,} failed" if last.has_failures else ""
            progress.update(bar, completed=last.processed_jobs, total=last.total_jobs, failures=failures)
    return last


def _ending(batch: Batch) -> str:
    if batch.cancelled:
        how = "was cancelled"
    elif batch.has_failures:
        how = "finished with failures"
    else:
        how = "finished"
    told = f"The batch {how}: {batch.processed_jobs:,} of {count(batch.total_jobs, 'job')} processed."
    if batch.has_failures:
        told += f" {batch.failed_jobs:,} failed: `laravel retry-batch {batch.id}` tries them again."
    return told
