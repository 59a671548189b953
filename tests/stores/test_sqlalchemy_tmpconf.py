import pytest

from celery_laravel.testing.store_suite import StoreSuite
from tests.stores import sql

B = {"sqlite": (sql.sqlite, False), "postgresql": (sql.postgresql, True), "mariadb": (sql.mariadb, True)}


@pytest.fixture(params=list(B))
def back_end(request):
    class X:
        open = staticmethod(B[request.param][0])
        server_clock = B[request.param][1]

    return X


class TestSQL(StoreSuite):
    pass
