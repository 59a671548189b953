"""What the Compose file starts, without the containers: RabbitMQ, Redis and PostgreSQL, each for its part."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.worker import ROOT, running_worker

DOCKER = ROOT / "docker"


@pytest.fixture
def environment(redis_url: str, postgresql_url: str, rabbitmq_url: str) -> dict[str, str]:
    return {
        "BROKER_URL": rabbitmq_url,
        "RESULT_BACKEND": f"db+{postgresql_url}",
        "LARAVEL_STORE": redis_url,
        "LARAVEL_FAILED_STORE": postgresql_url,
        "PYTHONPATH": os.pathsep.join(map(str, [DOCKER, ROOT])),
    }


def test_a_batch_goes_through_all_three_servers(environment: dict[str, str]) -> None:
    def run(*arguments: str) -> str:
        command = [str(Path(sys.executable)), "-m", *arguments]
        env = {**os.environ, **environment}
        done = subprocess.run(command, env=env, cwd=DOCKER, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("celery", "-A", "shop", "laravel", "migrate")
    with running_worker("shop", env=environment, cwd=DOCKER, concurrency=8) as worker:
        assert "100 %, 2 failed" in run("shop")
        worker.wait_for_log("Prices: 98 prices, 2 failed jobs")
    failed = run("celery", "-A", "shop", "laravel", "failed", "--json")
    assert "nobody sells product 50" in failed
    assert "nobody sells product 100" in failed
