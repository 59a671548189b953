"""Every back end of `BACK_ENDS` does what the contracts say."""

from __future__ import annotations

from celery_laravel.testing.store_suite import StoreSuite


class TestStores(StoreSuite):
    pass
