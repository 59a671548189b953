"""The worker: a real ``celery worker`` that lives as long as the demo."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from tasks_examples.import_csv.app import FOLDER, ROOT
from tasks_examples.import_csv.interrupts import StoppedError

if TYPE_CHECKING:
    from tasks_examples.import_csv.interrupts import Interrupts

LOG = FOLDER / "worker.log"
ARGUMENTS = (
    "-A",
    "tasks_examples.import_csv.app",
    "worker",
    "--pool",
    "prefork",
    "--concurrency",
    "2",
    "--loglevel",
    "INFO",
)

_PATIENCE = 10  # seconds for a warm shutdown


class WorkerDiedError(StoppedError):
    """The worker ended by itself."""


class Worker:
    """A worker in a session of its own, so that Ctrl-C reaches this program alone, which then stops the worker.

    Between `start` and `stop`, its end raises `WorkerDiedError` in the main
    thread, whatever that waits for.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the worker, without waiting until it is ready: jobs wait for it in the queue."""
        with LOG.open("wb") as log, self._interrupts.held():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", *ARGUMENTS],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        signal.signal(signal.SIGCHLD, self._on_child)
        self._on_child()  # it may have ended before anybody listened

    def stop(self) -> None:
        """End the worker and its children; nothing happens if that has been done.

        It may finish what it runs. Asked in vain for some seconds, or when the
        user is in a hurry, it is killed.
        """
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        with self._interrupts.held():
            while self._process.poll() is None and time.monotonic() < deadline and not self._interrupts.pending:
                time.sleep(0.02)
            with contextlib.suppress(ProcessLookupError):  # that nothing of its session is left is the rule
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def log_end(self, lines: int = 20) -> str:
        """The last lines that the worker has written."""
        return "\n".join(LOG.read_text(errors="replace").splitlines()[-lines:]) if LOG.exists() else ""

    def _on_child(self, *_: Any) -> None:
        if self._process is not None and self._process.poll() is not None:
            msg = f"The worker ended by itself, with exit code {self._process.returncode}."
            raise WorkerDiedError(msg)
