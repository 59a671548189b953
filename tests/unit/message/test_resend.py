"""A callback's message, sent once more: the exception among its arguments has to travel again."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery
from celery.app.task import Context
from kombu.utils.json import dumps, loads

from celery_laravel import install
from celery_laravel.message.header import Header
from celery_laravel.message.resend import resend


def test_the_exception_among_a_callbacks_arguments_arrives_as_one_again(make_app: Callable[..., Celery]) -> None:
    app = install(make_app())

    @app.task
    def on_failure(error: BaseException, number: int) -> None: ...

    request = Context(id="b:catch:0", args=[OSError("disk full"), 7], kwargs={}, headers={}, delivery_info={})

    signature = resend(on_failure, request, Header(callback="b:catch:0"))

    error, number = loads(dumps(signature.args))
    assert isinstance(error, OSError)
    assert (str(error), number) == ("disk full", 7)
