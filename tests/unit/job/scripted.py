"""Jobs that do what a script says, one step a run."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery


def names(heard: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [name for name, _ in heard]


def job(app: Celery, *script: Any, **options: Any) -> Any:
    """A job whose n-th run does the n-th step of a script, the last one repeating; ``runs`` are the attempts it saw."""
    runs: list[int] = []
    steps = itertools.chain(script, itertools.repeat(script[-1]))

    @app.task(name=f"job-{len(app.tasks)}", bind=True, **options)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        runs.append(self.attempts)
        step = next(steps)
        if isinstance(step, BaseException):
            raise step
        return step(self) if callable(step) else step

    run.runs = runs
    return run
