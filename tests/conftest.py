"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester", "tests.servers.fixtures", "celery_laravel.testing.local_nodes"]

HERE = Path(__file__).parent

# Where the library meets Celery: these run with every version of Celery that is supported.
MEETS_CELERY = {"unit", "parity", "integration"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.relative_to(HERE).parts[0] in MEETS_CELERY:
            item.add_marker("matrix")
