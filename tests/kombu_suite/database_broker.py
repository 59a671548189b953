"""What kombu expects of any transport, asked of the database broker on each of its databases."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kombu import Connection

import celery_laravel  # noqa: F401 - which teaches kombu the URLs
from celery_laravel.transport.database.migrating import migrate
from celery_laravel.transport.database.options import BrokerOptions

if TYPE_CHECKING:
    from collections.abc import Callable

common: Any = import_module("t.integration.common")  # of the kombu that is tested


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def connection(request: pytest.FixtureRequest, server_url: Callable[[str], str], tmp_path: Path) -> Connection:
    if request.param == "sqlite":
        return Connection(f"database+sqlite:///{tmp_path / 'broker.db'}")
    url = server_url(request.param)
    migrate(BrokerOptions(url))
    return Connection(f"database+{url}")


@pytest.fixture
def invalid_connection() -> Connection:
    return Connection("database+postgresql+psycopg://nobody@localhost:12345/nothing")


class test_Basic(common.BasicFunctionality):
    pass


class test_ExchangeTypes(common.BaseExchangeTypes):
    pass


class test_Priority(common.BasePriority):
    PRIORITY_ORDER = "asc"


class test_Message(common.BaseMessage):
    pass


class test_EventLoop(common.BaseEventLoop):
    pass


class test_TimeToLive(common.BaseTimeToLive):
    pass
