"""Many messages at a time are those that Celery would make, with every version of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_laravel import Bus, embedded, install
from celery_laravel.stores.factory import store_of

pytestmark = pytest.mark.matrix


def test_the_messages_of_a_batch_are_those_of_celery(tmp_path: Path):
    app = install(Celery("bulk", set_as_current=False))
    embedded(app, tmp_path)

    @app.task(name="add", shared=False)
    def add(x: int, deep: Any) -> None: ...

    deep = {"a": [1, {"b": [2, {"c": 3}]}], "long": "x" * 3000}
    add.delay(0, deep)
    Bus(app).batch(add.s(number, deep) for number in range(1, 4)).dispatch()
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.conf.task_default_queue)
        messages = [queue.get_nowait() for _ in range(4)]
        for message in messages:
            message.ack()
        queue.close()
    store_of(app).close()
    assert [message.payload[0] for message in messages] == [[number, deep] for number in range(4)]
    alone, *together = [message.headers["argsrepr"] for message in messages]
    assert together == [alone.replace("(0,", f"({number},", 1) for number in range(1, 4)]
    assert {frozenset(message.headers) - {"laravel"} for message in messages} == {frozenset(messages[0].headers)}
