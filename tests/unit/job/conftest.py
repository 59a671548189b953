"""The signals that a job's attempts send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel import signals

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTEMPT_SIGNALS = (
    "job_processing",
    "job_processed",
    "job_exception_occurred",
    "job_released",
    "job_failed",
    "job_queueing",
    "job_queued",
    "job_retry_requested",
)


@pytest.fixture
def heard() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The signals that were sent, in order."""
    heard: list[tuple[str, dict[str, Any]]] = []
    receivers = []
    for name in ATTEMPT_SIGNALS:

        def receiver(name: str = name, **details: Any) -> None:
            heard.append((name, details))

        getattr(signals, name).connect(receiver, weak=False)
        receivers.append((getattr(signals, name), receiver))
    yield heard
    for signal, receiver in receivers:
        signal.disconnect(receiver)
