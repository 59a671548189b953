"""What is said of a job that may not start any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_laravel import clock
from celery_laravel.errors import MaxAttemptsExceededError

if TYPE_CHECKING:
    from celery_laravel.attempt.running_job import RunningJob


def exceeded(task: Any, running: RunningJob) -> MaxAttemptsExceededError:
    """The failure of a job that was picked up once too often, or too late."""
    if running.limits.deadline is not None:
        until = clock.as_datetime(running.limits.deadline).isoformat(timespec="seconds")
        problem = f"{task.name} was picked up after its retry_until ({until})."
    else:
        attempt = f"attempt {running.counts.attempt} of {running.limits.tries}"
        problem = f"{task.name} has been attempted too many times: this would be {attempt}."
    return MaxAttemptsExceededError(f"{problem} {_what_came_before(running)}")


def _what_came_before(running: RunningJob) -> str:
    """How a job comes to be picked up again, as far as its counts tell: starts that this message's turn has had."""
    lost = running.counts.attempt - running.header.attempts - 1
    if lost == 1:
        return "The attempt before lost its process, or its whole worker."
    if lost > 1:
        return f"The {lost} attempts before lost their process, or their whole worker."
    if not running.header.attempts:
        return "No attempt was counted before: it waited too long in its queue, or for its turn."
    return "The attempt before put it back: the job released itself, or a middleware turned it away."
