"""Keywords of a dispatch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_laravel import ConfigurationError

if TYPE_CHECKING:
    from celery import Celery


@pytest.fixture
def task(app: Celery) -> Any:
    @app.task(name="ship")
    def ship() -> None: ...

    return app.tasks["ship"]


@pytest.mark.parametrize("option", [{"after_commit": True}, {"unique_for": 60}])
def test_a_keyword_of_a_feature_that_is_not_there_is_refused(task: Any, option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"'ship': apply_async\({next(iter(option))}="):
        task.s().apply_async(**option)


def test_a_keyword_that_asks_for_nothing_passes(task: Any) -> None:
    assert task.apply_async(after_commit=False, connection_name=None, unique_for=None).id
