"""The transitions of a job and a batch, sent as Celery signals.

A receiver that raises changes nothing: `celery.utils.dispatch.Signal` logs the
exception. Where nobody listens, sending costs one look at an empty list.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from celery.utils.dispatch import Signal

from celery_laravel.message.packs import CARRIER

if TYPE_CHECKING:
    from collections.abc import Iterator

    Withheld = list[tuple[Signal, Any, dict[str, Any]]]

_JOB = frozenset({"task_id", "args", "kwargs"})


def _signal(name: str, *extra: str) -> Signal:
    return Signal(name=name, providing_args=_JOB | set(extra))


job_queueing = _signal("job_queueing", "queue")
job_queued = _signal("job_queued", "queue")
job_processing = _signal("job_processing")
job_processed = _signal("job_processed")
job_exception_occurred = _signal("job_exception_occurred", "exception")
job_released = _signal("job_released", "delay")
job_failed = _signal("job_failed", "exception")
job_timed_out = _signal("job_timed_out", "exception")
job_retry_requested = _signal("job_retry_requested")
job_intercepted = _signal("job_intercepted", "middleware", "action", "delay", "detail")
unique_job_skipped = _signal("unique_job_skipped", "holder_id")
job_debounced = _signal("job_debounced", "newer_id")
batch_dispatched = Signal(name="batch_dispatched", providing_args={"batch"})
batch_finished = Signal(name="batch_finished", providing_args={"batch"})
batch_cancelled = Signal(name="batch_cancelled", providing_args={"batch"})


_OF_AN_ATTEMPT = (job_processing, job_processed, job_exception_occurred, job_released, job_failed, job_timed_out)


def anyone_follows_attempts() -> bool:
    """Whether a receiver is connected to a signal that attempts send."""
    return any(signal.receivers for signal in _OF_AN_ATTEMPT)


_withheld: ContextVar[Withheld | None] = ContextVar("withheld signals", default=None)


@contextmanager
def withheld() -> Iterator[Withheld]:
    """Collect what would be sent in this block, instead of calling receivers: signal, sender and details of each."""
    kept: Withheld = []
    token = _withheld.set(kept)
    try:
        yield kept
    finally:
        _withheld.reset(token)


def send(signal: Signal, sender: Any, **details: Any) -> None:
    """Send a signal if anybody listens; the message that carries a pack is no job to them, its members are."""
    if signal.receivers and getattr(sender, "name", None) != CARRIER:
        kept = _withheld.get()
        if kept is None:
            signal.send(sender=sender, **details)
        else:
            kept.append((signal, sender, details))
