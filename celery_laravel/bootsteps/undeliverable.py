"""Settles the jobs of messages that this worker cannot take, before Celery drops them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.exceptions import NotRegistered

from celery_laravel.errors import InvalidMessageError
from celery_laravel.job.undeliverable import settle_undeliverable

if TYPE_CHECKING:
    from collections.abc import Callable


class Undeliverable(bootsteps.Step):
    """Puts itself in front of the consumer's handlers of messages that it cannot take.

    Celery tells of some of these by a signal, after it has dropped the message;
    of a body that cannot be decoded it tells nobody.
    """

    def __init__(self, consumer: Any, **_: Any) -> None:
        self._app = consumer.app
        consumer.on_unknown_task = self._before(consumer.on_unknown_task, _unknown_task)
        consumer.on_unknown_message = self._before(consumer.on_unknown_message, _unknown_message)
        consumer.on_invalid_task = self._before(
            consumer.on_invalid_task, lambda _body, message, error: (message, error)
        )
        consumer.on_decode_error = self._before(consumer.on_decode_error, lambda message, error: (message, error))

    def _before(self, handler: Callable[..., Any], read: Callable[..., tuple[Any, Exception]]) -> Callable[..., Any]:
        def settle_and_handle(*arguments: Any) -> Any:
            settle_undeliverable(self._app, *read(*arguments))
            return handler(*arguments)

        return settle_and_handle


def _unknown_task(_body: Any, message: Any, error: Exception) -> tuple[Any, Exception]:
    return message, NotRegistered((message.headers or {}).get("task") or str(error))


def _unknown_message(_body: Any, message: Any) -> tuple[Any, Exception]:
    return message, InvalidMessageError("The message is none that Celery knows: its headers name no task.")
