"""The embedded default: one folder for broker, results and store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_laravel import ConfigurationError, embedded, install
from celery_laravel.runtime import runtime_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery import Celery


@pytest.mark.parametrize("installed_first", [True, False])
def test_an_app_is_pointed_at_one_folder_whatever_the_order(
    make_app: Callable[..., Celery], tmp_path: Path, installed_first: bool
) -> None:
    app = make_app()
    folder = tmp_path / "not" / "there yet"

    for step in (
        (install, lambda app: embedded(app, folder))
        if installed_first
        else (lambda app: embedded(app, folder), install)
    ):
        assert step(app) is app

    assert folder.is_dir()
    assert app.conf.broker_url == f"database+sqlite:///{folder}/broker.db"
    assert app.conf.result_backend == f"db+sqlite:///{folder}/results.db"
    assert runtime_of(app).settings.store == f"sqlite:///{folder}/store.db"
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
    runtime_of(app).store.ping()
    runtime_of(app).store.close()


def test_settings_that_were_read_before_are_read_again(make_app: Callable[..., Celery], tmp_path: Path) -> None:
    app = install(make_app())
    assert runtime_of(app).settings.store == "memory://"

    embedded(app, tmp_path)

    assert runtime_of(app).settings.store == f"sqlite:///{tmp_path}/store.db"


@pytest.mark.parametrize("name", ["what?", "a;b", "50%"])
def test_a_folder_whose_name_would_break_a_url_is_refused(
    make_app: Callable[..., Celery], tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigurationError, match="Choose a folder without"):
        embedded(make_app(), tmp_path / name)

    assert not (tmp_path / name).exists()
