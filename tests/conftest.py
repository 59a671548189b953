"""What all tests share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

pytest_plugins = ["pytester", "tests.servers.fixtures", "celery_laravel.testing.local_nodes"]

HERE = Path(__file__).parent

# Where the library meets Celery: these run with every version of Celery that is supported.
MEETS_CELERY = {"unit", "parity", "integration"}


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start, also where a shell has started pytest in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.relative_to(HERE).parts[0] in MEETS_CELERY:
            item.add_marker("matrix")
