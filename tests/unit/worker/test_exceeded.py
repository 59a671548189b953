"""What a job that is picked up once too often says of how that came."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from celery_laravel.attempt.retry_policy import Counts, Limits
from celery_laravel.attempt.running_job import RunningJob
from celery_laravel.message.header import Header
from celery_laravel.message.options import JobOptions
from celery_laravel.worker.exceeded import exceeded


class Task:
    name = "shop.pay"


@pytest.mark.parametrize(
    ("before", "attempt", "said"),
    [
        (0, 2, "The attempt before lost its process"),
        (0, 4, "The 3 attempts before lost their process"),
        (2, 4, "The attempt before lost its process"),
        (3, 4, "The attempt before put it back: the job released itself, or a middleware turned it away"),
    ],
)
def test_what_became_of_the_attempts_before(before: int, attempt: int, said: str) -> None:
    message = said_of(before, attempt, Limits(tries=attempt - 1))
    assert message.startswith(f"shop.pay has been attempted too many times: this would be attempt {attempt} of")
    assert said in message


def test_a_deadline_that_passed_before_anything_was_tried() -> None:
    message = said_of(0, 1, Limits(deadline=timedelta(days=1).total_seconds()))
    assert message.startswith("shop.pay was picked up after its retry_until (1970-01-02T00:00:00+00:00). ")
    assert "waited too long" in message


def said_of(before: int, attempt: int, limits: Limits) -> str:
    task: Any = Task
    return str(exceeded(task, RunningJob("id", JobOptions(), Header(attempts=before), Counts(attempt), limits)))
