"""The app of the database broker's benchmark, on either broker: the environment says which, and where.

`BENCH_BROKER` is ``database`` or ``filesystem``, or a URL; `BENCH_FOLDER` is
where files go.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

from celery_laravel.transport import register

register()


def make_app(broker: str, folder: Path) -> Celery:
    """An app on ``database``, ``filesystem`` or a URL, each at its defaults, with its files in ``folder``."""
    app = Celery("bench", set_as_current=False)
    app.conf.update(task_ignore_result=True, broker_url=f"database+sqlite:///{folder}/broker.db")
    if "://" in broker:
        app.conf.broker_url = broker
    elif broker == "filesystem":
        parts = {name: str(folder / name) for name in ("data", "control")}
        for part in parts.values():
            Path(part).mkdir(exist_ok=True)
        app.conf.update(
            broker_url="filesystem://",
            broker_transport_options={
                "data_folder_in": parts["data"],
                "data_folder_out": parts["data"],
                "control_folder": parts["control"],
            },
        )
    app.task(name="count")(count)
    app.task(name="arrive")(arrive)
    return app


def count() -> None:
    """Add a byte to the record: its size is the number of jobs done."""
    _append("count", b".")


def arrive(sent: float) -> None:
    """Note the seconds since the job was sent."""
    _append("arrivals", f"{time.time() - sent}\n".encode())


def _append(name: str, data: bytes) -> None:
    descriptor = os.open(Path(os.environ["BENCH_FOLDER"]) / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, data)
    os.close(descriptor)


if "BENCH_FOLDER" in os.environ:
    app = make_app(os.environ["BENCH_BROKER"], Path(os.environ["BENCH_FOLDER"]))
