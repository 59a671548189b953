"""Does what a page of the documentation tells its reader to do, with a real worker.

Of a page's fenced blocks:

- ``python`` whose first line names a file (``# shop.py``) is written to that file, or added to its end;
- ``python`` with ``>>>`` is typed into a Python of its own, whose answers must be those on the page;
- ``console`` is run command by command, and what follows a command must be its output (``...`` stands for anything).
  ``celery … worker`` is started in the background, in place of the one before it. Installing and making is passed over.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from celery_laravel.testing.processes import ManagedProcess
from tests.support.worker import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.\w+)\n")
_PASSED_OVER = ("python -m venv", "source ", "pip ", "make ", "git ", "mkdir ", "cd ")


class Walk:
    """A reader with a folder, a terminal and at most one worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._worker: ManagedProcess | None = None
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}

    def __enter__(self) -> Walk:  # noqa: PYI034  typing has no Self before Python 3.11
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._worker is not None:
            self._worker.stop()

    def through(self, page: Path) -> int:
        """Do everything on a page, and return how many blocks that were."""
        done = 0
        for done, (kind, block) in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8")), start=1):  # noqa: B007
            if kind == "console":
                for command, output in _commands(block):
                    self._run(command, output)
            elif named := _FILE.match(block):
                self._write(named[1], block)
            else:
                self._type(block)
        return done

    def _write(self, name: str, block: str) -> None:
        path = self.folder / name
        before = path.read_text(encoding="utf-8") + "\n\n" if path.exists() else ""
        path.write_text(before + block, encoding="utf-8")

    def _type(self, block: str) -> None:
        (self.folder / "session.txt").write_text(block, encoding="utf-8")
        self._check([sys.executable, "-m", "doctest", "-o", "ELLIPSIS", "session.txt"], "")

    def _run(self, command: str, output: str) -> None:
        if command.startswith(_PASSED_OVER):
            return
        words = shlex.split(command)
        if words[0] != "celery":
            self._check(["sh", "-c", command], output)
        elif "worker" in words:
            self._start([sys.executable, "-m", *words, *([] if "--loglevel" in words else ["--loglevel", "INFO"])])
        else:
            self._check([sys.executable, "-m", *words], output)

    def _start(self, command: list[str]) -> None:
        if self._worker is not None:
            self._worker.stop()
        self._worker = ManagedProcess(command, log=self.folder / "worker.log", cwd=self.folder, env=self._env)
        self._worker.start()
        self._worker.wait_for_log(" ready.", 60)

    def _check(self, command: list[str], output: str) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self._env, capture_output=True, text=True, timeout=90, check=False
        )
        told = f"{shlex.join(command)}\n{done.stdout}{done.stderr}\n-- expected\n{output}"
        if self._worker is not None:
            told += "\n-- worker\n" + self._worker.log_text()[-2000:]
        assert done.returncode == 0, told
        wanted = "\n".join(line.rstrip() for line in output.splitlines())
        got = "\n".join(line.rstrip() for line in done.stdout.splitlines())
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert not wanted or doctest.OutputChecker().check_output(wanted + "\n", got + "\n", flags), told


def _commands(block: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command.partition("  #")[0].strip(), output
