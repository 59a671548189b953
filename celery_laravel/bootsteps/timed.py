"""What is done again and again on the consumer's timer, in the worker's parent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import bootsteps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery


class TimedStep(bootsteps.StartStopStep):
    """A step that makes its `calls`, with the app, every so many seconds while the consumer is there."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        self._timer_entries: list[Any] = []

    def calls(self) -> Sequence[tuple[float, Callable[[Celery], None]]]:
        """The seconds between two calls, and what to call."""
        raise NotImplementedError

    def start(self, consumer: Any) -> None:
        """Begin."""
        self._timer_entries = [
            consumer.timer.call_repeatedly(interval, call, (consumer.app,)) for interval, call in self.calls()
        ]

    def stop(self, consumer: Any) -> None:
        """Call no more, until the consumer is back."""
        for entry in self._timer_entries:
            entry.cancel()
        self._timer_entries = []
