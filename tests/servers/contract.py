"""What the package says about a server, and what each kind of server can do."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from kombu.utils.url import maybe_sanitize_url

from celery_laravel.testing.processes import ManagedProcess, ProcessFailedError, find_program, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


class ServerMissingError(Exception):
    """There is no such server, for the reason given."""


@dataclass
class Server:
    """A server, and this run's area on it.

    `close` removes the area, and stops the server where this run started it.
    """

    kind: str
    url: str
    origin: Literal["used", "started"]
    closing: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        self.closing.close()

    def __str__(self) -> str:
        return f"{self.origin} {maybe_sanitize_url(self.url)}"


class ServerKind(Protocol):
    """How one kind of server is found, started and shared."""

    name: str
    variable: str
    """The environment variable that names a server to use."""
    usual: tuple[str, ...]
    """The URLs under which one usually runs on this machine, most likely first."""
    package: str
    """What to install to get one."""

    def probe(self, url: str) -> None:
        """Log in at ``url``, or raise `ServerMissingError` with the reason."""

    def start(self, closing: ExitStack) -> str:
        """Start a private server and return its URL once it answers; ``closing`` will stop it.

        Raises:
            ServerMissingError: It is not installed, or did not come up.
        """

    def open_area(self, url: str, server: Server) -> str:
        """Make an area for this run on the server at ``url``, and return the area's URL; ``server`` will remove it."""


def program(*names: str, folders: tuple[str, ...] = ()) -> str:
    """`find_program`, with a missing program as a missing server."""
    try:
        return find_program(*names, folders=folders)
    except FileNotFoundError as error:
        raise ServerMissingError(str(error)) from error


def start_and_wait(process: ManagedProcess, kind: ServerKind, url: str, timeout: float = 60) -> str:
    """Start a server, and return ``url`` once one can log in there.

    Raises:
        ServerMissingError: It ended, or did not answer within ``timeout`` seconds.
    """

    def answers() -> bool:
        if not process.is_running:
            raise process.failure(f"ended with {process.returncode} before it answered")
        try:
            kind.probe(url)
        except ServerMissingError:
            return False
        return True

    process.start()
    try:
        wait_until(answers, timeout, interval=0.2)
    except TimeoutError as error:
        raise ServerMissingError(str(process.failure(f"did not answer within {timeout:g} s"))) from error
    except ProcessFailedError as error:
        raise ServerMissingError(str(error)) from error
    return url


def run_to_end(command: list[str], folder: Path, user: str | None) -> None:
    """Run a command that prepares a server.

    Raises:
        ServerMissingError: It failed; the message has the end of what it said.
    """
    process = ManagedProcess(command, cwd=folder, log=folder / "prepare.log", user=user)
    process.start()
    try:
        if process.wait(timeout=60) != 0:
            raise process.failure(f"ended with {process.returncode}")
    except ProcessFailedError as error:
        raise ServerMissingError(str(error)) from error
    finally:
        process.kill()


@contextmanager
def data_folder(owner: str | None = None) -> Iterator[Path]:
    """A temporary folder that ``owner`` can use, whichever folder pytest's own are in; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="celery-laravel-test-"))
    try:
        if owner is not None:
            shutil.chown(folder, owner, owner)
        yield folder
    finally:
        shutil.rmtree(folder)
