"""The commands as people run them: a process, a pipe, a terminal, Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from celery_laravel.stores.factory import open_store
from celery_laravel.stores.records import FailedJob, NewBatch

APP = """
from celery import Celery
from celery_laravel import install

app = install(Celery("shop", broker="amqp://guest:secret@127.0.0.1:1//"))  # where no broker is
app.conf.update(laravel_store="sqlite:///store.db", broker_connection_timeout=1)
app.conf.task_publish_retry = False

@app.task(tries=3)
def charge(order): ...
"""
PAYLOAD = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "body": '{"task": "shop.charge", "args": [7], "kwargs": {}, "options": {}}',
    "is_base64": False,
}
IDS = [f"6f1c2a94-77aa-4c1b-9f0a-{number:012}" for number in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an app, three failed jobs and a batch that has not finished."""
    (tmp_path / "shop.py").write_text(APP)
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    for job_id in IDS:
        details = (
            "default",
            "celery",
            "shop.charge",
            "(7,)",
            "{}",
            "ValueError: Überweisung 🎉 [red]no[/red]",
            "Traceback …\n",
        )
        store.failed_jobs.record(FailedJob(job_id, *details, datetime.now(timezone.utc), 3, None, PAYLOAD))
    store.batches.create(NewBatch("batch-1", "Nightly"))
    store.batches.add("batch-1", 2)
    store.close()
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "shop", "laravel", *arguments]


def run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command with its output in pipes."""
    environment = {**os.environ, **env}
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@contextlib.contextmanager
def terminal(folder: Path, *arguments: str, columns: int, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command in a terminal of so many columns; gives the process, and the terminal to read from."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", **env}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        command(*arguments), cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def all_output(terminal: int) -> str:
    """Everything until the other side has closed the terminal."""
    output = b""
    with contextlib.suppress(OSError):  # Linux's way to say that it is closed
        while chunk := os.read(terminal, 65536):
            output += chunk
    return output.decode()


def test_reading_needs_no_broker(folder: Path):
    result = run(folder, "failed", "--json")
    assert result.returncode == 0, result.stderr
    assert sorted(job["id"] for job in json.loads(result.stdout)) == IDS


def test_a_pipe_gets_no_colours_and_nothing_is_cut_off(folder: Path):
    result = run(folder, "failed", COLUMNS="40")
    assert "\x1b" not in result.stdout
    assert result.stdout.count("ValueError: Überweisung 🎉 [red]no[/red]") == 3


def test_a_missing_broker_is_told_in_a_line_and_the_records_stay(folder: Path):
    result = run(folder, "retry", "all")
    assert result.returncode == 3
    assert result.stderr.startswith("Error: Cannot reach the broker at amqp://guest:***@127.0.0.1:1//")
    assert result.stderr.count("\n") == 1
    assert len(json.loads(run(folder, "failed", "--json").stdout)) == 3


def test_a_reader_that_leaves_early_is_no_crash(folder: Path):
    read, write = os.pipe()
    process = subprocess.Popen(command("failed"), cwd=folder, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    os.close(read)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


def test_an_output_that_knows_no_unicode_is_no_crash(folder: Path):
    assert run(folder, "failed", PYTHONIOENCODING="ascii").returncode == 0
    with terminal(folder, "failed", columns=150, PYTHONIOENCODING="ascii") as (process, screen):
        shown = all_output(screen)
        assert process.wait(30) == 0
    assert "\\xdcberweisung" in shown


def test_a_wide_terminal_shows_a_table_in_colour(folder: Path):
    with terminal(folder, "failed", columns=150) as (_, screen):
        shown = all_output(screen)
    assert "\x1b[" in shown
    assert "[red]no[/red]" in shown
    assert all(job_id in shown for job_id in IDS)


def test_a_narrow_terminal_shows_blocks_with_the_whole_id(folder: Path):
    with terminal(folder, "failed", columns=60, NO_COLOR="1") as (_, screen):
        shown = all_output(screen)
    assert "[31m" not in shown
    assert all(job_id in shown for job_id in IDS)
    assert shown.count("Exception") == 3


def test_ctrl_c_ends_the_watching_and_gives_the_cursor_back(folder: Path):
    with terminal(folder, "batch", "batch-1", "--watch", columns=100) as (process, screen):
        seen = os.read(screen, 65536)
        while b"0/2" not in seen:
            seen += os.read(screen, 65536)
        process.send_signal(signal.SIGINT)
        rest = all_output(screen)
        assert process.wait(30) == 130
    assert "Stopped watching; the batch goes on." in rest
    assert "\x1b[?25h" in rest
    assert "Traceback" not in rest


def test_ctrl_c_ends_the_watching_in_a_pipe(folder: Path):
    process = subprocess.Popen(
        command("batch", "batch-1", "--watch"),
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "  0 %  0 of 2 jobs\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "Stopped watching; the batch goes on.\n"


def test_without_rich_a_terminal_gets_plain_columns(folder: Path):
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['rich'] = None\n")
    with terminal(folder, "failed", columns=150, PYTHONPATH=str(folder)) as (_, screen):
        shown = all_output(screen)
    assert shown.splitlines()[0].startswith("ID  ")
    assert "\x1b" not in shown
    assert all(job_id in shown for job_id in IDS)
