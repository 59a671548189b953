"""Makes pytest run the Python code in the pages and in the README; `make docs` asks for it.

The blocks of a page run from top to bottom and share their names. A block that is shown only is
marked `python` no less, with a comment before it that says why it does not run:

    <!--- skip: next "needs a web server" -->
"""

from __future__ import annotations

from doctest import ELLIPSIS
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser


def _shared_tasks() -> set[Any]:
    """What Celery calls for every app to give it the tasks of all others (`shared=True`, its default)."""
    import celery.app.builtins  # noqa: F401  Celery's own tasks are shared too, and stay
    from celery import _state

    return _state._on_app_finalizers  # type: ignore[no-any-return]  # noqa: SLF001  there is no public way


def _signals() -> list[Any]:
    from celery import signals
    from celery.utils.dispatch import Signal

    from celery_laravel import events

    values = [*vars(signals).values(), *vars(events).values()]
    return [value for value in values if isinstance(value, Signal)]


def begin_page(namespace: dict[str, Any]) -> None:
    """Give a page's functions a module, and note what there is before its apps and receivers add to it."""
    namespace["__name__"] = "page"
    namespace["_before"] = set(_shared_tasks()), [list(signal.receivers or ()) for signal in _signals()]


def end_page(namespace: dict[str, Any]) -> None:
    """Let the next page begin as this one did, without this one's tasks and receivers."""
    shared, receivers = namespace["_before"]
    _shared_tasks().intersection_update(shared)
    for signal, before in zip(_signals(), receivers, strict=True):
        signal.receivers = before


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS), SkipParser()],
    path=str(Path(__file__).parent),
    patterns=["README.md", "docs/*.md", "docs/**/*.md", "docs/**/**/*.md"],
    setup=begin_page,
    teardown=end_page,
).pytest()
