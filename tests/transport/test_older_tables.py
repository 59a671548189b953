"""Tables that an older version of this library has made."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import sqlalchemy as sa
from kombu import Connection

from celery_laravel.transport.database.migrating import migrate, pending
from celery_laravel.transport.database.options import BrokerOptions
from celery_laravel.transport.database.tables import SCHEMA_VERSION, Tables

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "older_"


def make_first_version(url: str, tables: Tables) -> None:
    """Tables as version 1 has them, with a message."""
    older = sa.MetaData()
    for table in tables.metadata.tables.values():
        table.to_metadata(older)
    messages = older.tables[tables.messages.name]
    messages.indexes = {index for index in messages.indexes if "task_id" not in index.columns}
    messages._columns.remove(messages.c.task_id)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        older.create_all(connection)
        connection.execute(tables.schema.insert(), {"version": 1})
        values = {"queue": "jobs", "priority": 0, "visible_at": 0, "ready_at": 0, "acquired": 0, "returned": 0}
        text = '{"body": "1", "headers": {}, "properties": {"delivery_info": {}}, "content-type": "application/json"}'
        connection.execute(messages.insert(), {**values, "payload": text})
    engine.dispose()


def test_tables_of_the_first_version_are_changed_and_what_waits_in_them_stays(
    broker_url: str, connect: Callable[..., Connection]
) -> None:
    url = broker_url.removeprefix("database+")
    options, tables = BrokerOptions(url, table_prefix=PREFIX), Tables(PREFIX)
    engine = sa.create_engine(url)
    try:
        make_first_version(url, tables)
        if not url.startswith("sqlite"):  # where connecting does it
            assert pending(options) == list(range(2, SCHEMA_VERSION + 1))
            migrate(options)
        channel = connect(table_prefix=PREFIX).channel()
        assert channel.basic_get("jobs").payload == 1
        eta = (datetime.now(tz=timezone.utc) + timedelta(hours=1)).isoformat()
        connect(table_prefix=PREFIX).Producer().publish(2, routing_key="jobs", headers={"id": "one", "eta": eta})
        assert channel.connection.delayed.change("one", str) == 1
        assert channel.basic_get("jobs").payload == 2
        indexes = {
            index["name"]: index["column_names"] for index in sa.inspect(engine).get_indexes(f"{PREFIX}messages")
        }
        assert indexes[f"{PREFIX}messages_task_id"] == ["task_id"]
        assert migrate(options) == []
    finally:
        tables.metadata.drop_all(engine)
        engine.dispose()
