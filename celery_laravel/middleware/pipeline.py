"""Middleware around a job's code, like the layers of an onion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_laravel.middleware.contract import Middleware


def send_through(middleware: Sequence[Middleware], job: Any, destination: Callable[[Any], Any]) -> Any:
    """Run ``destination`` inside the middleware, the first of which is outermost, and return what comes out.

    A middleware that calls the next step but returns None does not lose the
    job's result: the inner value is handed on. One that ends the attempt by not
    calling the next step decides the value itself.
    """
    step = destination
    for layer in reversed(middleware):
        step = _around(layer, step)
    return step(job)


def _around(layer: Middleware, inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def step(job: Any) -> Any:
        inner_value = None

        def go_on(job: Any) -> Any:
            nonlocal inner_value
            inner_value = inner(job)
            return inner_value

        value = layer(job, go_on)
        return inner_value if value is None else value

    return step
