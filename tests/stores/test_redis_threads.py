"""What the threads of a process share in the Redis store: no server is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from celery_laravel.stores.redis.batch_answers import REMEMBERED, BatchAnswers
from celery_laravel.testing.store_suite.concurrency import at_once

THREADS = 4
LINE = b"1 1 1 0 0 1 0 %d - - -"
FIXED = json.dumps({"name": "", "options": {}, "callbacks": {}}).encode()


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_that_learn_of_more_batches_than_are_remembered_do_not_meet() -> None:
    answers = BatchAnswers()

    def learn(thread: int) -> int:
        changes = (answers.change(f"{thread}-{number}", [LINE % 1, FIXED, b"", b""], None) for number in range(4000))
        return sum(change is not None for change in changes)

    assert at_once(learn, threads=THREADS) == [4000] * THREADS
    remembered = [answers.fixed(f"{thread}-{number}") for thread in range(THREADS) for number in range(4000)]
    assert sum(fixed is not None for fixed in remembered) == REMEMBERED
