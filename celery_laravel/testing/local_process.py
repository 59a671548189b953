"""A process of this machine in the place of a container."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_docker_tools.exceptions import ContainerFailed

from celery_laravel.testing.processes import ProcessFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from celery_laravel.testing.processes import ManagedProcess

SIGKILL = int(signal.SIGKILL)


class ExecResult(NamedTuple):
    """What a command run beside a node answered; the shape that Docker's client gives it."""

    exit_code: int
    output: bytes


class LocalProcess:
    """Stands in for a container: a mixin to put before one of pytest-celery's container classes.

    The node's folder takes the place of the container's file system. `kill`
    with SIGKILL ends every process of the node at once, as it does for a
    container; another signal goes to the main process.
    """

    def __init__(self, process: ManagedProcess, folder: Path, *, helpers: tuple[ManagedProcess, ...] = ()) -> None:
        """Wrap a process that has not been started; ``helpers`` are started before it and live as long as the node."""
        # Not pytest-celery's own: that one asks a Docker engine.
        self.process = process
        self.folder = folder
        self.helpers = helpers
        self._id = secrets.token_hex(32)

    def start(self) -> None:
        """Start the helpers and the process."""
        for process in (*self.helpers, self.process):
            process.start()

    def discard(self) -> None:
        """Kill whatever of the node is alive."""
        for process in (self.process, *self.helpers):
            process.kill()

    @property
    def id(self) -> str:
        """64 hexadecimal digits; the first twelve are the host's name in that of a worker."""
        return self._id

    @property
    def name(self) -> str:
        """What the node is called in messages."""
        return f"{type(self).__name__}-{self.id[:12]}"

    @property
    def status(self) -> str:
        """Docker's word for it: ``running`` or ``exited``."""
        return "running" if self.process.is_running else "exited"

    @property
    def env(self) -> Mapping[str, str]:
        """The environment of the process."""
        return os.environ if self.process.env is None else self.process.env

    @property
    def attrs(self) -> dict[str, Any]:
        """The part of ``docker inspect`` that a process has."""
        state = {"Status": self.status, "ExitCode": self.process.returncode, "Pid": self.process.pid}
        return {"Id": self.id, "Name": self.name, "Config": {"Hostname": self.id[:12]}, "State": state}

    def logs(self) -> str:
        """What the process has written, over all its starts."""
        return self.process.log_text()

    def ready(self) -> bool:
        """Wait until the node says in its log that it is ready.

        Raises:
            ContainerFailed: It ended instead, or said nothing within a minute; the message has the end of the log.
        """
        prompt: str = getattr(self, "ready_prompt", None) or ""
        try:
            self.process.wait_for_log(prompt, timeout=60)
        except ProcessFailedError as error:
            raise ContainerFailed(self, str(error)) from error
        return True

    def reload(self) -> None:
        """Bury what the main process left behind when it ended; a container does not outlive its own."""
        if not self.process.is_running:
            self.process.kill()

    def kill(self, signal: str | int | None = None) -> None:
        """Send a signal by its name or number, SIGKILL unless given."""
        number = _number(signal)
        if number == SIGKILL:
            self.process.kill()
        else:
            self.process.send(number)

    def restart(self, timeout: float = 10) -> None:
        """Stop the process, by force after ``timeout`` seconds, start it again, and wait until it is ready."""
        self.process.stop(timeout)
        self.process.start()
        self.ready()

    def exec_run(self, cmd: str | list[str], **_options: Any) -> ExecResult:
        """Run a command in the node's folder and environment; options that only Docker knows are ignored."""
        command = shlex.split(cmd) if isinstance(cmd, str) else list(cmd)
        done = subprocess.run(  # noqa: S603 - the test's own command
            command,
            cwd=self.folder,
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return ExecResult(done.returncode, done.stdout)

    def get_files(self, path: str) -> dict[str, bytes | None]:
        """The files below ``path`` of the node's folder by their names there; None stands for a folder."""
        top = self.folder / path.removeprefix("/app").lstrip("/")
        found = [top, *sorted(top.rglob("*"))] if top.is_dir() else [top]
        return {str(file.relative_to(top.parent)): None if file.is_dir() else file.read_bytes() for file in found}

    def remove(self, *_args: Any, **_options: Any) -> None:
        """Refused, as for containers: the fixture that made the node removes it."""
        msg = "Do not remove this node by hand: its fixture does so after the test."
        raise RuntimeError(msg)


def _number(name: str | int | None) -> int:
    if name is None:
        return SIGKILL
    if isinstance(name, int):
        return name
    return signal.Signals["SIG" + name.upper().removeprefix("SIG")]
