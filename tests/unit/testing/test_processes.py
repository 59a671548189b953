from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from celery_laravel.testing.processes import ManagedProcess, ProcessFailedError, find_program, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WITH_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; print('child', flush=True); time.sleep(600)"])
print("parent", flush=True)
time.sleep(600)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Callable[[str], ManagedProcess]]:
    made: list[ManagedProcess] = []

    def make(code: str) -> ManagedProcess:
        made.append(ManagedProcess([sys.executable, "-c", code], log=tmp_path / f"log{len(made)}"))
        return made[-1]

    yield make
    for process in made:
        process.kill()


def test_a_kill_takes_the_children_along(python: Callable[[str], ManagedProcess]) -> None:
    process = python(WITH_CHILD)
    process.start()
    process.wait_for_log("child")
    assert len(process.members()) == 2
    process.kill()
    assert process.members() == []
    assert process.returncode == -signal.SIGKILL


def test_a_stop_takes_along_the_children_that_outlive_their_parent(python: Callable[[str], ManagedProcess]) -> None:
    process = python(WITH_CHILD)
    process.start()
    process.wait_for_log("child")
    assert process.stop() == -signal.SIGTERM
    assert process.members() == []


def test_a_process_that_does_not_hear_is_killed_after_the_timeout(python: Callable[[str], ManagedProcess]) -> None:
    process = python(STUBBORN)
    process.start()
    process.wait_for_log("deaf")
    assert process.stop(timeout=0.3) == -signal.SIGKILL


def test_waiting_for_a_line_ends_with_the_process_and_shows_its_log(python: Callable[[str], ManagedProcess]) -> None:
    process = python("print('out of order'); raise SystemExit(3)")
    process.start()
    with pytest.raises(ProcessFailedError, match=r"ended with 3 before it logged 'ready'.*\n.*out of order"):
        process.wait_for_log("ready")


def test_a_line_of_an_earlier_start_is_not_taken_for_one_of_this(python: Callable[[str], ManagedProcess]) -> None:
    process = python("import os; print(os.getpid())")
    process.start()
    process.wait()
    first = process.log_text().strip()
    process.start()
    process.wait()
    with pytest.raises(ProcessFailedError, match="before it logged"):
        process.wait_for_log(f"{first}\n")
    assert len(process.log_text().split()) == 2


def test_what_is_killed_twice_or_was_never_started_is_no_matter(python: Callable[[str], ManagedProcess]) -> None:
    process = python("pass")
    process.kill()
    assert process.stop() is None
    process.start()
    process.wait()
    process.kill()
    process.kill()
    with pytest.raises(ProcessFailedError, match="has not been started"):
        _ = python("pass").pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_process_does_not_outlive_a_test_run_that_is_killed(
    tmp_path: Path, python: Callable[[str], ManagedProcess]
) -> None:
    run = python(
        f"""
import time, pathlib
from celery_laravel.testing.processes import ManagedProcess
inner = ManagedProcess(["sleep", "600"], log=pathlib.Path({str(tmp_path / "inner")!r}))
inner.start()
print("inner", inner.pid, flush=True)
time.sleep(600)
"""
    )
    run.start()
    run.wait_for_log("inner")
    inner = int(wait_until(lambda: run.log_text().endswith("\n") and run.log_text().split()[-1]))
    os.kill(run.pid, signal.SIGKILL)
    run.wait()

    def is_gone() -> bool:
        try:
            os.kill(inner, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{inner}/stat") as stat:  # noqa: PTH123 - gone between the two is an error either way
            return stat.read().rpartition(")")[2].split()[0] == "Z"

    wait_until(is_gone, 10)


def test_a_program_is_found_in_a_folder_before_the_search_path(tmp_path: Path) -> None:
    for version in ("14", "9"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "sh").touch()
    assert find_program("sh").endswith("/sh")
    assert find_program("sh", folders=[f"{tmp_path}/*"]) == str(tmp_path / "14" / "sh")
    with pytest.raises(FileNotFoundError, match="no-such-program is not installed"):
        find_program("no-such-program", "nor-this")
