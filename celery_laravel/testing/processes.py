"""Processes that a test starts, watches and gets rid of, children included."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")

PR_SET_PDEATHSIG = 1


class ProcessFailedError(AssertionError):
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


class ProcessGroup:
    """A command in a process group of its own, with its output in a file.

    The group is the unit: `kill` and `stop` return once no member of it is
    alive, grandchildren included. Should the test run itself be killed, Linux
    kills the command too, as long as the thread that started it lives.

        server = ProcessGroup(["redis-server", "--port", "7001"], log=tmp_path / "redis.log")
        server.start()
        wait_until(lambda: "Ready to accept" in server.log_text())
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
        self.command = list(command)
        self.log = log
        self.cwd = cwd
        self.env = env
        self.user = user
        self.stop_signal = stop_signal
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the command's process, which is also that of its group; the last one's, if it has ended."""
        if self.process is None:
            msg = f"{self.command[0]} has not been started"
            raise ProcessFailedError(msg)
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the command itself is alive; members of its group may outlive it."""
        return self.process is not None and self.process.poll() is None

    @property
    def returncode(self) -> int | None:
        """How the command ended, as `subprocess.Popen.returncode`; None while it runs."""
        return None if self.process is None else self.process.poll()

    def start(self) -> None:
        """Start the command, or start it again; its output is added to that of earlier starts."""
        if self.is_running:
            msg = f"{self.command[0]} runs already, as process {self.pid}"
            raise ProcessFailedError(msg)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - a test's own command, and no shell
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
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - only a system call
            )

    def log_text(self) -> str:
        """What the command has written so far, over all its starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for_log(self, text: str, timeout: float = 30) -> None:
        """Wait until the log contains ``text``; fail at once when the command ends before."""

        def seen() -> bool:
            if text in self.log_text():
                return True
            if not self.is_running:
                raise self.failure(f"ended with {self.returncode} before it logged {text!r}")
            return False

        try:
            wait_until(_keep(seen), timeout, message=f"{text!r} in the log")
        except TimeoutError as error:
            raise self.failure(f"did not log {text!r} within {timeout:g} s") from error

    def send(self, signum: int) -> None:
        """Send a signal to the command alone; its children hear nothing of it."""
        if self.is_running:
            os.kill(self.pid, signum)

    def wait(self, timeout: float = 30) -> int:
        """Wait for the command to end by itself, and return how it did."""
        if self.process is None:
            raise self.failure("has not been started")
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise self.failure(f"still runs after {timeout:g} s") from error

    def stop(self, timeout: float = 20) -> int | None:
        """Ask the command to end, wait ``timeout`` seconds, and kill what is left of the group.

        Returns the command's return code: a negative one says that it had to
        be killed. None means that it was never started.
        """
        if self.process is None:
            return None
        self.send(self.stop_signal)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass  # asked in vain: `kill` follows, and the return code tells
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL to every member of the group; returns once none is alive. Nothing happens if none is."""
        if self.process is None:
            return
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it ended by itself in between
        self.process.wait()
        wait_until(lambda: not self.members(), message=f"the end of the processes of {self.command[0]}")

    def members(self) -> list[int]:
        """The ids of the group's living processes; a zombie that nobody has buried yet is not alive."""
        return [] if self.process is None else list(_living_members(self.process.pid))

    def failure(self, what: str) -> ProcessFailedError:
        """An error that says what went wrong with this command, with the end of its log."""
        tail = "\n".join(self.log_text().splitlines()[-25:])
        return ProcessFailedError(f"{' '.join(self.command)}: {what}. Its log ends:\n{tail}")


def _living_members(group: int) -> Iterator[int]:
    import psutil  # with the extra `testing`

    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue  # gone meanwhile, or not ours to ask about


def _keep(condition: Callable[[], bool]) -> Callable[[], bool]:
    """Let an assertion of ``condition`` through `wait_until`, which would take it for "not yet"."""
    raised: list[AssertionError] = []

    def asked() -> bool:
        try:
            return condition()
        except AssertionError as error:
            raised.append(error)
            return True

    def checked() -> bool:
        found = asked()
        if raised:
            raise _Raised(raised[0])
        return found

    return checked


class _Raised(Exception):
    pass


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
