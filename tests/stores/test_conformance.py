"""Every back end of `BACK_ENDS` does what the contracts say."""

from __future__ import annotations

import pytest

from celery_laravel.testing.store_suite import ModelSuite, StoreSuite


class TestStores(StoreSuite):
    examples = 10


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestModelsThoroughly(ModelSuite):
    examples = 100
