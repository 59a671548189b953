"""What the library announces by its signals, in the words of traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery_laravel import signals
from tests.parity.errors import name_of
from tests.parity.scenario import Scenario
from tests.parity.stage import Stage


class Announcements(Stage):
    """Logs what happens to the jobs of one app."""

    app: Any
    tasks: dict[str, Any]

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.released: set[str] = set()
        self.is_to_crash = False
        self._receivers: dict[Any, Callable[..., None]] = {
            signals.job_processing: self._on_processing,
            signals.job_exception_occurred: self._on_exception,
            signals.job_released: self._on_released,
            signals.job_failed: self._on_failed,
            signals.job_processed: self._on_processed,
            signals.unique_job_skipped: self._on_skipped,
        }

    def listen(self) -> None:
        """Log from now on."""
        for signal, receiver in self._receivers.items():
            signal.connect(receiver, weak=False)

    def listen_no_more(self) -> None:
        """Leave nothing behind in this process."""
        for signal, receiver in self._receivers.items():
            signal.disconnect(receiver)

    def _on_processing(self, sender: Any, **_: Any) -> None:
        if self.is_to_crash and sender.app is self.app:
            self.is_to_crash = False
            self.crash()

    def _on_exception(self, sender: Any, exception: BaseException, **details: Any) -> None:
        self._announce("exception", sender, details, type=name_of(exception))

    def _on_failed(self, sender: Any, exception: BaseException, **details: Any) -> None:
        self._announce("failed", sender, details, type=name_of(exception))

    def _on_released(self, sender: Any, delay: float, **details: Any) -> None:
        self.released.add(details["task_id"])
        self._announce("released", sender, details, delay=whole_tenths(delay))

    def _on_processed(self, sender: Any, **details: Any) -> None:
        self._announce("processed", sender, details)

    def _on_skipped(self, sender: Any, **details: Any) -> None:
        self._announce("dispatch_ignored", sender, details)

    def _announce(self, event: str, task: Any, details: Mapping[str, Any], **more: Any) -> None:
        if task.app is self.app and task.name in self.tasks:
            self.note(event, job=details["args"][0], **more)


def whole_tenths(seconds: float) -> float:
    """Seconds without the milliseconds that limiters add to a wait."""
    return round(seconds, 1)
