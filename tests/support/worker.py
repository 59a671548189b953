"""A real worker process for a test."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from celery_laravel.testing.processes import ManagedProcess, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celery import Celery

__all__ = ["RunningWorker", "running_worker", "wait_until"]

ROOT = Path(__file__).parents[2]


class RunningWorker:
    """A worker that `running_worker` started; also after it has ended, when the log can still be read."""

    def __init__(self, name: str, process: ManagedProcess) -> None:
        self.name = name
        """The node's name, as `app.control.inspect([name])` takes it."""
        self.process = process

    @property
    def pid(self) -> int:
        """The worker's main process."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.is_running

    @property
    def returncode(self) -> int | None:
        return self.process.returncode

    def pids(self) -> list[int]:
        """Every living process of the worker, its children in the pool included."""
        return self.process.members()

    def children(self) -> list[int]:
        """The living processes of the worker but the main one: those of the pool, and what they started."""
        return [pid for pid in self.pids() if pid != self.pid]

    def log_text(self) -> str:
        return self.process.log_text()

    def wait_for_log(self, text: str, timeout: float = 30) -> None:
        """Wait until ``text`` is logged, since the last start; fails at once when the worker ends before."""
        self.process.wait_for_log(text, timeout)

    def wait_until_active(self, app: Celery, timeout: float = 30) -> None:
        """Wait until the main process knows that a job runs; what the job itself has written may be ahead of that.

        Celery's cold shutdown ends the jobs it knows to run, and waits for one
        whose process has not been heard yet, as a warm one does.
        """
        inspect = app.control.inspect([self.name], timeout=5)
        lost = app.connection_for_read().connection_errors

        def active() -> object:
            try:
                return (inspect.active() or {}).get(self.name)
            except lost:  # a connection of an earlier test's, which the pool still has and the server has closed
                return None

        wait_until(active, timeout, message=f"a job that runs in {self.name}")

    def send(self, signum: int) -> None:
        """Send a signal to the main process alone."""
        self.process.send(signum)

    def kill(self) -> None:
        """SIGKILL to all of the worker's processes at once, as when the machine loses its power."""
        self.process.kill()

    def terminate(self, timeout: float = 30) -> int:
        """Ask for a warm shutdown, and return how the worker ended; taking longer than ``timeout`` is an error."""
        self.process.send(signal.SIGTERM)
        return self.process.wait(timeout)

    def restart(self, timeout: float = 30) -> None:
        """Start the worker again after it has ended, under the same name."""
        self.process.start()
        self.process.wait_for_log(f"{self.name} ready.", timeout)


@contextmanager
def running_worker(
    app_module: str,
    *,
    pool: str = "prefork",
    concurrency: int = 2,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    loglevel: str = "INFO",
    ready_timeout: float = 60,
) -> Iterator[RunningWorker]:
    """Start ``celery -A app_module worker`` and hand it over when it is ready; afterwards no process of it is left.

    ``env`` is added to the environment of the tests. The checkout is on the
    worker's search path. When the test fails, the end of the log is printed.
    """
    name = f"worker-{secrets.token_hex(4)}@localhost"
    command = [sys.executable, "-m", "celery", "-A", app_module, "worker", "-n", name, "-l", loglevel]
    command += ["-P", pool, "-c", str(concurrency), *args]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    full_env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(env or {})}
    with tempfile.TemporaryDirectory(prefix="celery-laravel-worker-") as folder:
        process = ManagedProcess(command, log=Path(folder) / "log", cwd=cwd, env=full_env)
        worker = RunningWorker(name, process)
        try:
            process.start()
            process.wait_for_log(f"{name} ready.", ready_timeout)
            yield worker
        except BaseException:
            print(f"-- log of {name}:", *process.log_text().splitlines()[-60:], sep="\n")  # noqa: T201 - for pytest's report
            raise
        finally:
            process.stop(timeout=10)
