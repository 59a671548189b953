"""What may stand in a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_laravel import Bus, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery


def test_a_task_of_an_app_without_the_library_is_refused_as_nobody_would_count_it(
    make_app: Callable[..., Celery],
) -> None:
    app = make_app()

    @app.task(name="resize")
    def resize() -> None: ...

    with pytest.raises(ConfigurationError, match=r"'resize' is a plain task.*install\(app\)"):
        Bus(app).batch([[resize.si(), resize.si()]]).dispatch()
    assert Bus(app).batches() == []
