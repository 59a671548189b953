"""The app of scripted jobs, of whose processes one dies as it is about to publish its ``JOBS_DIES_AT``-th message."""

from __future__ import annotations

import os
import signal
from typing import Any

from celery.signals import before_task_publish

from tests.support.jobs_app import app

_AT = int(os.environ["JOBS_DIES_AT"])
_WORKER = os.getpid()


@before_task_publish.connect
def die(**_: Any) -> None:
    if os.getpid() != _WORKER and app.record.add(app.conf.task_default_queue, "messages", 1) == _AT:
        os.kill(os.getpid(), signal.SIGKILL)
