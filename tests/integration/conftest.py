"""Integration tests run on pytest-celery's nodes: Redis as broker and result backend, unless a test says otherwise.

With ``WITH_DOCKER=1`` the nodes are containers, and the workers' image has this library in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pytest_celery import CeleryBackendCluster, CeleryBrokerCluster
from pytest_docker_tools import build

from celery_laravel.testing.local_nodes import WITH_DOCKER
from tests.support.worker import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

if WITH_DOCKER:
    celery_base_worker_image = build(
        path=str(ROOT), dockerfile="docker/node.Dockerfile", tag="celery-laravel/worker-node:tests"
    )


@pytest.fixture
def celery_broker_cluster(celery_redis_broker: Any) -> Iterator[Any]:
    cluster = CeleryBrokerCluster(celery_redis_broker)
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster(celery_redis_backend: Any) -> Iterator[Any]:
    cluster = CeleryBackendCluster(celery_redis_backend)
    yield cluster
    cluster.teardown()


@pytest.fixture
def default_worker_tasks(default_worker_tasks: set[Any]) -> set[Any]:
    from tests.integration import tasks

    return {*default_worker_tasks, tasks}
