"""What every example needs: a folder of its own, and a real worker while it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

ROOT = Path(__file__).resolve().parents[1]


def folder_for(example: str) -> Path:
    """Where an example keeps its queue, results and store; its worker, and whoever looks later, find them there."""
    return Path(os.environ.get("EXAMPLES_FOLDER") or ROOT / "var" / "examples") / example


@contextmanager
def local_worker(app: Celery, *options: str) -> Iterator[None]:
    """Run ``celery worker`` for an example's app while the block runs, beginning with empty files.

    What jobs print appears on the terminal; the worker's log goes to
    ``worker.log`` in the example's folder. The app is named after its module.
    """
    folder = folder_for(app.main.rpartition(".")[2])
    for leftover in [*folder.glob("*.db*"), *folder.glob("worker.log")]:
        leftover.unlink()
    log = folder / "worker.log"
    command = [sys.executable, "-m", "celery", "--quiet", "-A", app.main, "worker", "--concurrency", "2", *options]
    command += ["--loglevel", "INFO", "--logfile", str(log), "--", "worker.redirect_stdouts=no"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("a") as errors:
        worker = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors)
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(timeout=30)
