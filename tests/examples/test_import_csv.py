"""The demo, as `make demo` runs it: a program of its own, with a real worker."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from celery_laravel.testing.processes import wait_until
from tests.support.worker import ROOT, running_worker

DEMO = [sys.executable, "-m", "tasks_examples.import_csv"]
APP = "tasks_examples.import_csv.app"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The demo's folder; whatever happens, no process that works in it is left."""
    yield tmp_path
    for process in processes_of(tmp_path):
        process.kill()


@pytest.fixture
def env(folder: Path) -> dict[str, str]:
    return {**os.environ, "IMPORT_CSV_FOLDER": str(folder), "PYTHONUNBUFFERED": "1"}


def processes_of(folder: Path) -> list[psutil.Process]:
    """The living processes of a demo, known by its folder in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_alive = process.status() != psutil.STATUS_ZOMBIE
            if is_alive and process.environ().get("IMPORT_CSV_FOLDER") == str(folder):
                found.append(process)
    return found


def run(env: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=100, check=False)


def query(folder: Path, sql: str) -> list[tuple[object, ...]]:
    db = sqlite3.connect(folder / "airports.db")
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


@pytest.mark.slow
def test_the_demo_imports_what_is_good_and_says_what_is_not(folder: Path, env: dict[str, str]):
    result = run(env, *DEMO)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not processes_of(folder)
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout
    assert "3,360 of 3,376, in 55 states and territories" in result.stdout
    assert "325 of 338 succeeded" in result.stdout
    assert re.search(
        r"tried again +\d+ jobs? \(lines [\d–, ]+\), after OperationalError: database is locked", result.stdout
    )
    assert re.search(r"line 1138, CLD: no city, no state +[0-9a-f-]{36} *\n", result.stdout)
    assert result.stdout.count("\n  line ") == 16
    assert query(folder, "SELECT count(*) FROM airports") == [(3360,)]
    assert {row[0] for row in query(folder, "SELECT callback FROM reports")} == {"catch", "finally"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_the_demo_prints_mends_and_retries_what_failed(folder: Path, env: dict[str, str]):
    """Run a second time in the same folder, then type what it says."""
    run(env, *DEMO)
    result = run(env, *DEMO)
    assert result.returncode == 0, result.stdout + result.stderr
    failed, mend, retry, worker, batch = re.findall(r"  # .*\n  (.*)\n", result.stdout)
    assert sys.executable not in failed
    assert worker.endswith(f"celery -A {APP} worker --concurrency 2")

    listed = typed(failed)
    assert listed.returncode == 0
    assert listed.stdout.count("BadRowsError") == 13
    assert typed(mend).returncode == 0
    assert typed(retry).stdout == "13 failed jobs sent again.\n"
    with running_worker(APP, env=env):
        watched = typed(f"{batch} --watch")
        wait_until(lambda: query(folder, "SELECT 1 FROM reports WHERE callback = 'then'"))
    assert watched.returncode == 0, watched.stdout
    assert query(folder, "SELECT count(*) FROM airports") == [(3376,)]
    assert typed(failed).stdout == "No failed jobs.\n"


def typed(command: str) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell, in an environment that knows nothing of the demo."""
    return subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


MOMENTS: dict[str, Callable[[Path, str], bool]] = {
    "before the worker": lambda _, output: "celery-laravel" in output,
    "as the worker starts": lambda folder, _: (folder / "worker.log").exists(),
    "as its children start": lambda folder, _: "Connected to" in (folder / "worker.log").read_text(),
    "in the middle": lambda _, output: re.search(r"^ *[1-9]\d %", output, re.MULTILINE) is not None,
    "at the end": lambda _, output: "100 %" in output,
}


@pytest.mark.parametrize(
    ("moment", "signum"),
    [*((moment, signal.SIGINT) for moment in MOMENTS), ("as its children start", signal.SIGTERM)],
)
def test_told_to_stop_the_demo_leaves_nothing_running(folder: Path, env: dict[str, str], moment: str, signum: int):
    output = folder / "output.txt"
    with output.open("w") as stdout:
        process = subprocess.Popen(DEMO, cwd=ROOT, env=env, stdout=stdout, stderr=subprocess.STDOUT)
    has_come = MOMENTS[moment]

    def come() -> bool:
        with contextlib.suppress(FileNotFoundError):
            return has_come(folder, output.read_text()) or process.poll() is not None
        return False

    wait_until(come, 60, interval=0.01)
    process.send_signal(signum)
    code = process.wait(30)
    assert code == 130 or (moment == "at the end" and code == 0), output.read_text()
    assert not processes_of(folder)
    assert "Traceback" not in output.read_text()


def test_ctrl_c_on_a_terminal_is_clean(folder: Path, env: dict[str, str]):
    """The terminal sends the signal itself, to all that run in its foreground; twice, as people do."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        DEMO,
        cwd=ROOT,
        env={**env, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  one thread, one system call
    )
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other side has closed it
        while b"Starting the worker" not in seen:
            seen += os.read(ours, 65536)
        os.write(ours, b"\x03")
        os.write(ours, b"\x03")
        while chunk := os.read(ours, 65536):
            seen += chunk
    os.close(ours)
    assert process.wait(30) == 130, seen
    assert not processes_of(folder)
    assert b"Traceback" not in seen
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l"), "the cursor is shown again"


def test_a_worker_that_fails_to_start_shows_its_log(folder: Path, env: dict[str, str]):
    program = """
        import sys
        from tasks_examples.import_csv import demo, worker
        worker.ARGUMENTS = (*worker.ARGUMENTS, "--no-such-option")
        sys.exit(demo.run())
    """
    result = run(env, sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines()))
    assert result.returncode == 1
    assert "No such option" in result.stdout
    assert "The worker ended by itself, with exit code 2." in result.stderr
    assert not processes_of(folder)


def test_a_second_demo_keeps_out_of_the_folder(folder: Path, env: dict[str, str]):
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        result = run(env, *DEMO)
    finally:
        os.close(handle)
    assert result.returncode == 1
    assert result.stderr == f"Another demo is running in {folder}. Wait for it, or stop it.\n"


def test_the_folder_loses_nothing_but_what_the_demo_made(folder: Path, env: dict[str, str]):
    (folder / "mine.txt").write_text("keep")
    (folder / "worker.log").write_text("old")
    process = subprocess.Popen(DEMO, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: "old" not in (folder / "worker.log").read_text() if (folder / "worker.log").exists() else False)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert (folder / "mine.txt").read_text() == "keep"


def test_the_commands_can_be_typed_from_another_folder(tmp_path: Path, env: dict[str, str]):
    program = "from tasks_examples.import_csv.screen import _celery; print(_celery())"
    elsewhere = {**env, "PYTHONPATH": str(ROOT), "IMPORT_CSV_FOLDER": f"{tmp_path}/a folder"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=elsewhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    command = result.stdout.strip()
    assert command.startswith(f"cd {ROOT} && IMPORT_CSV_FOLDER={shlex.quote(f'{tmp_path}/a folder')} ")
    assert command.endswith("/celery")


def test_an_interrupt_that_meets_a_destructor_comes_again():
    """Python lets no exception out of one, so that the demo would go on."""
    code = """
import os, signal, time
from tasks_examples.import_csv.interrupts import Interrupts
class Dies:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
Interrupts()
try:
    Dies()
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=25, check=False
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
