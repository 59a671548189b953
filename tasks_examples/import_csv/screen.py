"""What the demo shows: in colour on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from celery_laravel import Bus
from tasks_examples.import_csv import database, tasks
from tasks_examples.import_csv.airports import last_line_of
from tasks_examples.import_csv.app import FOLDER, ROOT, app
from tasks_examples.import_csv.worker import LOG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_laravel import Batch


class Follower(Protocol):
    """Whatever follows a batch."""

    def update(self, batch: Batch) -> None:
        """Show a batch as it stands now."""


class Screen:
    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may not know every character
        self._console = Console(highlight=False, soft_wrap=True)

    def introduce(self) -> None:
        rows = last_line_of(tasks.SOURCE) - 1
        self._console.print()
        self._console.print(
            Text.assemble(("celery-laravel", "bold cyan"), f"  {rows:,} airports, one batch, no server")
        )
        self._console.print()
        self._fact("file", "tasks_examples/import_csv/airports.csv, a public-domain file as it was published")
        self._fact("worker", f"celery worker, prefork, two children; its log is {_short(LOG)}")
        self._fact("broker", f"SQLite, as are results, store and target: {_short(FOLDER)}/*.db")
        self._fact("meanwhile", "this program locks the target for a moment, as a backup would")
        self._console.print()

    @contextmanager
    def progress(self) -> Iterator[Follower]:
        if not self._console.is_terminal:
            yield _Lines(self._console)
            return
        columns = (
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("[red]{task.fields[failures]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            yield _Bar(progress)

    def report(self, batch: Batch, reports: dict[str, str]) -> None:
        with database.connect(FOLDER) as db:
            airports, states = database.count_airports(db)
        succeeded = batch.total_jobs - batch.failed_jobs
        self._console.print()
        self._heading("Imported", "green")
        self._fact(
            "airports", f"{airports:,} of {last_line_of(tasks.SOURCE) - 1:,}, in {states} states and territories"
        )
        self._fact("jobs", f"{succeeded:,} of {batch.total_jobs:,} succeeded, of {tasks.LINES_PER_JOB} rows each")
        self._tried_again()
        self._failed(batch)
        self._heading("Callbacks", "cyan")
        for callback in ("catch", "finally", "then"):
            self._fact(callback, reports.get(callback, "has not run: it waits until every job has succeeded"))
        self._console.print()
        self._what_now(batch)

    def show_log(self, log: str) -> None:
        if log:
            self._console.print(Rule(f"the end of {_short(LOG)}", style="dim"))
            self._console.print(Text(log))
            self._console.print(Rule(style="dim"))

    def complain(self, message: str) -> None:
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(message, style="bold red"))

    def _tried_again(self) -> None:
        if not tasks.INTERRUPTIONS.exists():
            return
        entries = [json.loads(line) for line in tasks.INTERRUPTIONS.read_text().splitlines()]
        for exception in dict.fromkeys(entry["exception"] for entry in entries):
            jobs = sorted({tuple(e["args"]) for e in entries if e["exception"] == exception and _imports(e)})
            lines = ", ".join(f"{first}–{last}" for first, last in jobs)
            noun = "job" if len(jobs) == 1 else "jobs"
            which = f"{len(jobs)} {noun} (lines {lines})" if jobs else "a callback"
            self._fact("tried again", f"{which}, after {exception}")

    def _failed(self, batch: Batch) -> None:
        self._console.print()
        if not batch.has_failures:
            return
        self._heading("Failed for good", "red")
        table = Table(box=None, padding=(0, 2), show_header=False)
        table.add_column(style="red")
        table.add_column(style="dim", no_wrap=True)
        for job in sorted(Bus(app).failed.all(), key=lambda job: _first_line(job.exception)):
            problems = job.exception.partition(": ")[2].split("; ")
            table.add_row(Text("\n".join(problems)), job.id)
        self._console.print(table, soft_wrap=False)
        self._console.print(
            Text("  Their good rows are in; these are wrong in the file as it was published.", style="dim")
        )
        self._console.print()

    def _what_now(self, batch: Batch) -> None:
        if not batch.has_failures:
            return
        self._heading("What now", "cyan")
        python, celery = _command(sys.executable), _celery()
        app_option = "-A tasks_examples.import_csv.app"
        steps = (
            ("see the failed jobs", f"{celery} {app_option} laravel failed"),
            (f"mend {_short(tasks.SOURCE)}", f"{python} -m tasks_examples.import_csv.mend"),
            ("try them again", f"{celery} {app_option} laravel retry all"),
            ("with a worker (Ctrl-C ends it)", f"{celery} {app_option} worker --concurrency 2"),
            ("and see the batch complete", f"{celery} {app_option} laravel batch {batch.id}"),
        )
        for what, command in steps:
            self._console.print(Text.assemble(("  # " + what, "dim"), "\n  ", (command, "bold")))
        self._console.print()

    def _heading(self, text: str, colour: str) -> None:
        self._console.print(Text(text, style=f"bold {colour}"))

    def _fact(self, name: str, text: str) -> None:
        self._console.print(Text.assemble("  ", (f"{name:<12}", "dim"), text))


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("Starting the worker", total=None, failures="")

    def update(self, batch: Batch) -> None:
        failures = f"{batch.failed_jobs} failed" if batch.has_failures else ""
        name = "Starting the worker" if not batch.processed_jobs else "Imported" if batch.finished else "Importing"
        self._progress.update(
            self._task, description=name, total=batch.total_jobs, completed=batch.processed_jobs, failures=failures
        )


class _Lines:
    """A line for every quarter, for outputs that cannot be rewritten."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = -1

    def update(self, batch: Batch) -> None:
        quarter = batch.progress // 25
        if quarter > self._shown:
            self._shown = quarter
            counts = f"{batch.processed_jobs} of {batch.total_jobs} jobs, {batch.failed_jobs} failed"
            self._console.print(f"{batch.progress:3d} %  {counts}", markup=False)


def _imports(entry: dict[str, Any]) -> bool:
    """Whether an interruption befell an import of lines, and not a callback."""
    return bool(entry["task"] == tasks.import_lines.name)


def _first_line(exception: str) -> int:
    digits = exception.partition("line ")[2].partition(",")[0]
    return int(digits) if digits.isdigit() else 0


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _celery() -> str:
    """The ``celery`` beside this Python, as short as it can be typed here."""
    beside = Path(sys.executable).with_name("celery")
    if not beside.exists():
        return f"{_command(sys.executable)} -m celery"
    found = shutil.which("celery")
    if found is not None and Path(found) == beside and _prefix() == "":
        return "celery"
    return _command(str(beside))


def _command(program: str) -> str:
    return _prefix() + shlex.quote(_short(Path(program)))


def _prefix() -> str:
    """What has to stand before a command, so that it finds this example and its folder."""
    moved = "" if Path.cwd() == ROOT else f"cd {shlex.quote(str(ROOT))} && "
    folder = os.environ.get("IMPORT_CSV_FOLDER")
    return moved + (f"IMPORT_CSV_FOLDER={shlex.quote(str(FOLDER))} " if folder else "")
