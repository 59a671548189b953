"""An app with a queue in memory, and what a worker's child does with the messages in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.app.trace import build_tracer
from celery.exceptions import Reject

from celery_laravel import install

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery


class Post:
    """The messages of an app's queues, and their work without a worker."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.channel = app.connection_for_write().channel()

    def take(self, *queues: str) -> list[Any]:
        """Take everything out of the queues: the app's own unless others are named."""
        found = []
        for queue in queues or (self.app.conf.task_default_queue,):
            self.channel.queue_declare(queue)
            while (message := self.channel.basic_get(queue, no_ack=True)) is not None:
                found.append(message)
        return found

    def run(self, message: Any, **properties: Any) -> None:
        """Run one message as a worker's child does; a message that is rejected to come again goes back."""
        task = self.app.tasks[message.headers["task"]]
        task.__trace__ = task.__trace__ or build_tracer(task.name, task, app=self.app)
        args, kwargs, follows = message.payload
        delivery = {"routing_key": message.delivery_info["routing_key"], "redelivered": False} | properties.pop(
            "delivery", {}
        )
        request = {**message.headers, "args": args, "kwargs": kwargs, "hostname": "here", "is_eager": False}
        request |= {"delivery_info": delivery, "properties": {**message.properties, **properties}, **follows}
        traced = task.__trace__(message.headers["id"], args, kwargs, request)
        if traced.info is not None and isinstance(traced.info.retval, Reject) and traced.info.retval.requeue:
            raise AssertionError(f"{message.headers['id']} would come again")

    def work(self) -> list[Any]:
        """Run what is in the app's queue, and what that puts there, until there is nothing; return the messages."""
        worked = []
        while messages := self.take():
            for message in messages:
                self.run(message)
            worked += messages
        return worked


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    app = install(make_app())
    app.ran = []
    return app


@pytest.fixture
def post(app: Celery) -> Post:
    return Post(app)
