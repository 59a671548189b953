"""Waiting for a slot, written once for threads and for asyncio.

What is to be done is a generator, which yields calls of the store and waits
and carries out neither. One driver does so in the caller's thread, the other
off the event loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from celery import current_app

from celery_laravel.errors import ConfigurationError, StoreUnavailableError
from celery_laravel.message.durations import in_seconds, is_seconds

logger = logging.getLogger("celery_laravel.middleware")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Call:
    """Call a function of the store, and send its answer back into the generator."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Wait:
    """Let so many seconds pass."""

    seconds: float


Step = Call | Wait
Steps = Generator[Step, Any, _T]
"""What is to be done. An exception that interrupts a step is thrown into the generator, which may clean up by more."""


def run(steps: Steps[_T]) -> _T:
    """Carry out steps in this thread; return what the generator returns."""
    answer: Any = None
    interruption: BaseException | None = None
    while True:
        try:
            step = steps.send(answer) if interruption is None else steps.throw(interruption)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer = interruption = None
        try:
            if isinstance(step, Call):
                answer = step.function()
            else:
                time.sleep(step.seconds)
        except BaseException as error:
            interruption = error


async def run_async(steps: Steps[_T]) -> _T:
    """Carry out steps, calls in another thread and waits by asyncio; return what the generator returns."""
    answer: Any = None
    interruption: BaseException | None = None
    while True:
        try:
            step = steps.send(answer) if interruption is None else steps.throw(interruption)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer = interruption = None
        try:
            answer = await _carry_out(step)
        except BaseException as error:
            interruption = error


async def _carry_out(step: Step) -> Any:
    """A call that has begun is seen to its end before a cancellation, so that what it took can be given back."""
    import asyncio  # here, because workers do without it and it takes long to import

    if isinstance(step, Wait):
        return await asyncio.sleep(step.seconds)
    call = asyncio.ensure_future(asyncio.to_thread(step.function))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        while not call.done():
            try:
                await asyncio.wait([call])
            except asyncio.CancelledError:
                continue  # the first one is raised below
        if call.exception() is not None:
            logger.debug("What a cancelled call of the store raised", exc_info=call.exception())
        raise


def undo(what: str, function: Callable[[], Any]) -> Steps[None]:
    """Give up what is held. A store that does not answer is logged: what is held ends by itself."""
    try:
        yield Call(function)
    except StoreUnavailableError as error:
        logger.warning("%s could not be given up, and ends by itself: %s", what, error)


def app_or_current(app: Any) -> Any:
    """The app given, or Celery's current one."""
    return current_app._get_current_object() if app is None else app  # noqa: SLF001  Celery's own way


def checked_seconds(what: str, seconds: Any) -> float:
    """Seconds given as a number or a timedelta.

    Raises:
        ConfigurationError: They are negative, or no duration.
    """
    value = in_seconds(seconds)
    if not is_seconds(value):
        raise ConfigurationError(f"{what} takes seconds or a timedelta, not negative; {seconds!r} is none.")
    return float(value)
