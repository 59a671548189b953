"""Processes that a test starts, watches and gets rid of, children included."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Found = TypeVar("Found")

PR_SET_PDEATHSIG = 1


class ProcessFailedError(RuntimeError):
    """A process ended, or did not end, when the test needed the opposite; the message carries the end of its log."""


def wait_until(
    condition: Callable[[], Found],
    timeout: float = 30,
    *,
    message: str = "the condition",
    interval: float = 0.05,
) -> Found:
    """Call ``condition`` until it gives something true, and return that.

    An `AssertionError` of the condition counts as "not yet"; any other
    exception is the caller's. ``timeout`` and ``interval`` are seconds.

    Raises:
        TimeoutError: It did not come true in time; an assertion that was in the way is attached as the cause.
    """
    deadline = time.monotonic() + timeout
    while True:
        reason: AssertionError | None = None
        try:
            if found := condition():
                return found
        except AssertionError as error:
            reason = error
        if time.monotonic() >= deadline:
            msg = f"Waited {timeout:g} s in vain for {message}."
            raise TimeoutError(msg) from reason
        time.sleep(interval)


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_program(*names: str, folders: Sequence[str] = ()) -> str:
    """The path of the first of these programs that is installed.

    Args:
        names: What it may be called.
        folders: Patterns of folders to look into before the search path, the highest version first.

    Raises:
        FileNotFoundError: None of them is.
    """
    for folder in folders:
        for found in sorted(Path("/").glob(folder.lstrip("/")), key=_numbers, reverse=True):
            for name in names:
                if (found / name).is_file():
                    return str(found / name)
    for name in names:
        # servers are often in folders that the search path of ordinary users leaves out
        if path := shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin"):
            return path
    msg = f"{names[0]} is not installed"
    raise FileNotFoundError(msg)


class ManagedProcess:
    """A command in a session of its own, with its output in a file.

    The session is the unit: `kill` and `stop` return once no process of it is
    alive, grandchildren included. Should the test run itself be killed, Linux
    kills the command too, as long as the thread that started it was the main one.

        server = ManagedProcess(["redis-server", "--port", "7001"], log=tmp_path / "redis.log")
        server.start()
        server.wait_for_log("Ready to accept connections")
        server.stop()
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Describe the command; nothing is started yet.

        Args:
            command: The program and its arguments; no shell is involved.
            log: The file that takes what the command writes.
            cwd: The folder to start in; that of the test run unless given.
            env: The whole environment; that of the test run unless given.
            user: Whom to run as, with the group of the same name; only root can choose.
            stop_signal: What asks the command to end in an orderly way.
        """
        self.command = list(command)
        self.log = log
        self.cwd = cwd
        self.env = env
        self.user = user
        self.stop_signal = stop_signal
        self.process: subprocess.Popen[bytes] | None = None
        self._log_before = 0  # bytes that earlier starts have written

    @property
    def pid(self) -> int:
        """The id of the command's process and of its session; that of the last start, if it has ended."""
        return self._started().pid

    @property
    def is_running(self) -> bool:
        """Whether the command itself is alive; others of its session may outlive it."""
        return self.process is not None and self.process.poll() is None

    @property
    def returncode(self) -> int | None:
        """How the command ended, as `subprocess.Popen.returncode`; None while it runs."""
        return None if self.process is None else self.process.poll()

    def start(self) -> None:
        """Start the command, or start it again; its output is added to that of earlier starts."""
        if self.is_running:
            raise self.failure(f"runs already, as process {self.pid}")
        with self.log.open("ab") as output:
            self._log_before = output.tell()
            self.process = subprocess.Popen(  # noqa: S603 - a test's own command
                self.command,
                cwd=self.cwd,
                env=None if self.env is None else dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - a system call, no locks
            )

    def log_text(self) -> str:
        """What the command has written so far, over all its starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for_log(self, text: str, timeout: float = 30) -> None:
        """Wait until ``text`` is logged, since the last start; fail at once when the command ends before."""

        def is_logged() -> bool:
            is_alive = self.is_running
            if text in self.log.read_bytes()[self._log_before :].decode(errors="replace"):
                return True
            if not is_alive:
                raise self.failure(f"ended with {self.returncode} before it logged {text!r}")
            return False

        try:
            wait_until(is_logged, timeout)
        except TimeoutError as error:
            raise self.failure(f"did not log {text!r} within {timeout:g} s") from error

    def send(self, signum: int) -> None:
        """Send a signal to the command alone; its children hear nothing of it."""
        if self.is_running:
            os.kill(self.pid, signum)

    def wait(self, timeout: float = 30) -> int:
        """Wait for the command to end by itself, and return how it did."""
        try:
            return self._started().wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise self.failure(f"still runs after {timeout:g} s") from error

    def stop(self, timeout: float = 20) -> int | None:
        """Ask the command to end, wait ``timeout`` seconds, then kill what is left of its session.

        Returns the command's return code; ``-SIGKILL`` says that it was asked
        in vain. None means that it was never started.
        """
        if self.process is None:
            return None
        self.send(self.stop_signal)
        deadline = time.monotonic() + timeout
        while self.is_running and time.monotonic() < deadline:
            time.sleep(0.02)
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL to every process of the session; returns once none is alive. Nothing happens if none is."""
        if self.process is None:
            return
        # All are stopped first: a parent that sees its child die may start another.
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for pid in self.members():
                try:
                    os.kill(pid, signum)
                except ProcessLookupError:
                    continue  # it ended by itself in between
        self.process.wait()
        wait_until(lambda: not self.members(), message=f"the end of the processes of {self.command[0]}")

    def members(self) -> list[int]:
        """The ids of the session's living processes; a zombie that nobody has buried yet is not alive."""
        return [] if self.process is None else list(_living_members(self.process.pid))

    def failure(self, what: str) -> ProcessFailedError:
        """An error that says what went wrong with this command, with the end of its log."""
        tail = "\n".join(self.log_text().splitlines()[-25:])
        return ProcessFailedError(f"{' '.join(self.command)}: {what}. Its log ends:\n{tail}")

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise self.failure("has not been started")
        return self.process


def _numbers(path: Path) -> list[int]:
    """What versions are sorted by: 14 comes after 9."""
    return [int(number) for number in re.findall(r"\d+", str(path))]


def _living_members(session: int) -> Iterator[int]:
    import psutil  # with the extra `testing`

    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue  # gone meanwhile, or not ours to ask about


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
