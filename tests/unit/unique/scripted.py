"""A unique job that does what a script says, one step a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery


def job(app: Celery, *script: Any, **options: Any) -> Any:
    """A unique job whose n-th run does the n-th step of a script, the last one repeating; ``ran`` is what it got."""
    ran: list[Any] = []
    steps = list(script) or [None]

    @app.task(name="job", bind=True, **{"unique": True, **options})
    def run(self: Any, value: Any = 0, other: Any = 0) -> Any:
        ran.append(value)
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if isinstance(step, BaseException):
            raise step
        return step(self) if callable(step) else step

    run.ran = ran
    return run


def nothing() -> None:
    pass
