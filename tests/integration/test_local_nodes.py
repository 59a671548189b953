from __future__ import annotations

from typing import Any

import pytest
from pytest_celery import CeleryBrokerCluster, RedisContainer

from celery_laravel.testing import local_nodes
from tests.integration.tasks import double
from tests.support.worker import wait_until

needs_processes = pytest.mark.skipif(
    local_nodes.WITH_DOCKER, reason="containers are asked for, and this is about processes"
)


def test_a_task_goes_to_a_worker_and_its_result_comes_back(celery_setup: Any) -> None:
    assert double.s(21).apply_async().get(timeout=20) == 42


def test_a_setup_is_ready_by_every_confirmation(celery_setup: Any) -> None:
    assert celery_setup.ready(ping=True, control=True, docker=True)


def test_a_worker_that_was_killed_works_again_after_a_restart(celery_setup: Any) -> None:
    worker = celery_setup.worker
    worker.kill()
    assert worker.container.status == "exited"
    result = double.s(4).apply_async()
    worker.restart()
    assert result.get(timeout=20) == 8


def test_a_worker_that_is_asked_to_ends_warmly(celery_setup: Any) -> None:
    worker = celery_setup.worker
    worker.kill("SIGTERM")
    wait_until(lambda: worker.container.reload() or worker.container.status == "exited", 20)
    assert "Warm shutdown" in worker.logs()


def test_a_broker_keeps_its_address_over_a_restart(celery_setup: Any) -> None:
    before = celery_setup.broker.config()["host_url"]
    celery_setup.broker.restart()
    assert celery_setup.broker.config()["host_url"] == before
    celery_setup.worker.wait_for_log("ready.")
    assert double.s(5).apply_async().get(timeout=30) == 10


def test_a_command_runs_beside_the_worker(celery_setup: Any) -> None:
    code, output = celery_setup.worker.container.exec_run("python -c 'import app; print(app.app.main)'")
    assert (code, output.decode().split()[-1]) == (0, celery_setup.name())
    names = [info["name"] for info in celery_setup.worker.get_running_processes_info(["name"])]
    assert any("celery" in name or "python" in name for name in names)


@needs_processes
def test_killing_a_node_ends_the_children_of_its_pool(celery_setup: Any) -> None:
    container = celery_setup.worker.container
    double.s(1).apply_async().get(timeout=20)
    assert len(container.process.members()) > 1
    container.kill()
    assert container.process.members() == []


@needs_processes
def test_a_node_has_the_files_of_its_folder(celery_setup: Any) -> None:
    files = celery_setup.worker.container.get_files("/app")
    assert any(name.endswith("app.py") for name in files)


@needs_processes
def test_a_node_is_not_removed_by_hand(celery_setup: Any) -> None:
    with pytest.raises(RuntimeError, match="its fixture does so"):
        celery_setup.worker.container.remove()


@needs_processes
class TestAContainerClassOfOnesOwn:
    @pytest.fixture
    def default_redis_broker_cls(self) -> type:
        class Picky(RedisContainer):
            @property
            def vhost(self) -> str:
                return "3"

        return Picky

    def test_is_kept_and_made_local(self, celery_setup: Any) -> None:
        assert type(celery_setup.broker.container).__name__ == "LocalPicky"
        assert celery_setup.broker.config()["url"].endswith("/3")
        assert double.s(3).apply_async().get(timeout=20) == 6


class TestRabbitMQ:
    @pytest.fixture
    def celery_broker_cluster(self, celery_rabbitmq_broker: Any) -> Any:
        return CeleryBrokerCluster(celery_rabbitmq_broker)

    def test_a_task_goes_through_it(self, celery_setup: Any) -> None:
        assert celery_setup.broker.config()["url"].startswith("amqp://")
        assert double.s(6).apply_async().get(timeout=30) == 12
