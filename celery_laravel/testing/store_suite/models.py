# ruff: noqa: D102  the name of a test is its sentence
"""Random sequences of calls, compared with models too simple to be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from celery_laravel.stores.contracts import Store
    from celery_laravel.testing.store_suite.times import Advance


class ModelSuite:
    """A store does what a model of it in plain lists and dictionaries does.

    ``examples`` sequences of at most ``steps`` calls are tried for each capability.
    """

    examples = 50
    steps = 40

    def test_batches_follow_their_model(self, store: Store) -> None:
        pytest.importorskip("hypothesis", reason="random sequences of calls are made by hypothesis")
        from celery_laravel.testing.store_suite.batch_machine import check_batches

        check_batches(store, examples=self.examples, steps=self.steps)

    def test_attempts_follow_their_model(self, store: Store) -> None:
        pytest.importorskip("hypothesis", reason="random sequences of calls are made by hypothesis")
        from celery_laravel.testing.store_suite.attempt_machine import check_attempts

        check_attempts(store, examples=self.examples, steps=self.steps)

    def test_locks_follow_their_model(self, store: Store, advance: Advance) -> None:
        pytest.importorskip("hypothesis", reason="random sequences of calls are made by hypothesis")
        from celery_laravel.testing.store_suite.lock_machine import check_locks

        check_locks(store, advance, examples=self.examples, steps=self.steps)

    def test_limits_follow_their_model(self, store: Store, advance: Advance) -> None:
        pytest.importorskip("hypothesis", reason="random sequences of calls are made by hypothesis")
        from celery_laravel.testing.store_suite.limit_machine import check_limits

        check_limits(store, advance, examples=self.examples, steps=self.steps)

    def test_delays_follow_their_model(self, store: Store, advance: Advance) -> None:
        pytest.importorskip("hypothesis", reason="random sequences of calls are made by hypothesis")
        from celery_laravel.testing.store_suite.delay_machine import check_delays

        check_delays(store, advance, examples=self.examples, steps=self.steps)

    def test_failed_jobs_follow_their_model(self, store: Store, advance: Advance) -> None:
        pytest.importorskip("hypothesis", reason="random sequences of calls are made by hypothesis")
        from celery_laravel.testing.store_suite.failed_job_machine import check_failed_jobs

        check_failed_jobs(store, advance, examples=self.examples, steps=self.steps)
