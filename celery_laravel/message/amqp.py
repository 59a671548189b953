"""Where an app makes its messages and its connections."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from celery.utils.imports import instantiate

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery


def change_amqp(app: Celery, change: Callable[[Any], None]) -> None:
    """Have ``change`` called with the app's ``amqp``: once it is made, or now if it is there. No setting is read."""
    app.amqp_cls = partial(_make, app.amqp_cls, change)
    if "amqp" in app.__dict__:  # a cached property
        change(app.amqp)


def _make(cls: Any, change: Callable[[Any], None], app: Celery) -> Any:
    amqp = instantiate(cls, app=app)
    change(amqp)
    return amqp
