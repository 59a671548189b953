"""Keeps a message that Celery cannot make sense of from ending the worker, and the next one that it is delivered to.

Celery refuses a message whose body it cannot decode, and one that names no
task. Of anything else that is wrong with one (an id that is a list, a time
limit that is a text) the exception ends the worker's main loop; the broker
delivers the message again, to the next worker.
"""

from __future__ import annotations

import contextlib
import logging
from pickle import PickleError
from typing import TYPE_CHECKING, Any

from celery import bootsteps, signals
from celery.worker import state

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_OF_THE_MESSAGE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What code raises that was given something else than it expects. A broker that fails raises other exceptions,
although some transports name a few of these among their ``connection_errors``, and would connect again for ever."""

_NAMES = ("task", "shadow", "root_id", "parent_id", "group")
"""What Celery counts jobs by, or looks them up by, when a process of the pool has taken one."""


class BadMessages(bootsteps.StartStopStep):
    """Has the consumer refuse a message on which its handler of tasks stumbles, as it refuses others: for good."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Wrap the handlers that the consumer's loop makes for itself when it begins."""
        controller = consumer.controller
        process = type(controller)._process_task.__get__(controller)  # noqa: SLF001  where Celery hands on to the pool
        controller._process_task = lambda request: _process(consumer, process, request)  # noqa: SLF001
        create = type(consumer).create_task_handler.__get__(consumer)
        consumer.create_task_handler = lambda *args, **kwargs: _guarded(consumer, create(*args, **kwargs))


def _guarded(consumer: Any, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def on_task_received(message: Any) -> Any:
        try:
            _check_headers(message.headers)
            _check_what_follows(message)
            return handler(message)
        except _OF_THE_MESSAGE as error:
            if isinstance(error, OSError):  # ssl's are ValueErrors, too
                raise
            return _refuse(consumer, message, error)

    return on_task_received


def _process(consumer: Any, process: Callable[[Any], Any], request: Any) -> None:
    try:
        process(request)
    except (*_OF_THE_MESSAGE, PickleError) as error:
        if isinstance(error, OSError):
            raise
        state.task_ready(request)
        _forget_result(consumer.controller, request)
        _refuse(consumer, request.message, error)


def _forget_result(controller: Any, request: Any) -> None:
    """Let the pool wait no more for what it was never given, and have room for another."""
    with contextlib.suppress(AttributeError):  # as Celery does of a job that was revoked
        controller._quick_release()  # noqa: SLF001
    cache = getattr(getattr(controller.pool, "_pool", None), "_cache", None) or {}
    for number, result in list(cache.items()):
        if getattr(result, "correlation_id", None) == request.id and not result.ready():
            cache.pop(number, None)


def _check_headers(headers: Any) -> None:
    """Look at what Celery reads only when a process of the pool is free, where no handler is around it any more.

    Raises:
        TypeError, ValueError: It would end the worker then.
    """
    if not isinstance(headers, dict):
        return
    for name in _NAMES:
        if not isinstance(headers.get(name), (str, type(None))):
            raise TypeError(f"its {name} is {headers[name]!r}, and no text")
    limits, stamped = headers.get("timelimit"), headers.get("stamped_headers")
    if limits and not (isinstance(limits, (list, tuple)) and len(limits) == 2 and all(map(_is_limit, limits))):  # noqa: PLR2004
        raise ValueError(f"its timelimit is {limits!r}, and not two numbers")
    if stamped and not (isinstance(stamped, (list, tuple)) and all(isinstance(name, str) for name in stamped)):
        raise ValueError(f"its stamped_headers are {stamped!r}, and no list of names")
    if headers.get("stamps") and not isinstance(headers["stamps"], dict):
        raise ValueError(f"its stamps are {headers['stamps']!r}, and no mapping")


def _check_what_follows(message: Any) -> None:
    """Look at what is to follow a job, which Celery reads when the job has ended and is not acknowledged yet.

    A body that cannot be decoded is Celery's to refuse.

    Raises:
        ValueError: It is nothing that could be sent.
    """
    try:
        payload = message.payload  # decoded once, and kept for the handler
    except Exception:
        return
    if not (isinstance(payload, (list, tuple)) and len(payload) == 3):  # noqa: PLR2004  arguments, and what follows
        return
    follows = payload[2]
    if not (follows is None or isinstance(follows, dict)):
        raise ValueError(f"it is to be followed by {follows!r}, which is no mapping")
    for name in ("callbacks", "errbacks", "chain"):
        signatures = (follows or {}).get(name)
        if signatures and not (isinstance(signatures, (list, tuple)) and all(map(_is_signature, signatures))):
            raise ValueError(f"its {name} are {signatures!r}, and no signatures")
    chord = (follows or {}).get("chord")
    if chord and not _is_signature(chord):
        raise ValueError(f"its chord is {chord!r}, and no signature")


def _is_signature(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("task"), str) and isinstance(value.get("options", {}), dict)


def _is_limit(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0)


def _refuse(consumer: Any, message: Any, error: Exception) -> None:
    """Reject a message as an invalid one, which a broker with a dead-letter exchange keeps; all of it is logged."""
    logger.critical(
        "Refused a message that cannot be made a job of, because of %r: headers %r, properties %r, body %r",
        error,
        message.headers,
        message.properties,
        message.body,
        exc_info=error,
    )
    if message.acknowledged:  # Celery stumbled after it had dropped the message
        return
    try:
        consumer.on_invalid_task(None, message, error)
    except _OF_THE_MESSAGE:  # it has no body to be shown
        if message.acknowledged:
            return
        message.reject_log_error(logger, consumer.connection_errors)
        signals.task_rejected.send(sender=consumer, message=message, exc=error)
