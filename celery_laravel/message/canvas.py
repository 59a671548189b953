"""Walking Celery's canvas: the single tasks that a signature is made of.

A canvas travels as nested mappings, and Celery turns groups into chords and
moves the rest of a chain about; what never changes is that each single task
keeps its own options. So the library's header is put on, and looked for in,
those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from celery_laravel.message.header import NAME, Header, read_header, with_header


def tasks_of(signature: Any) -> Iterator[Any]:
    """The signatures of single tasks within a signature, in the order in which they are written."""
    kind = signature.get("subtask_type") if isinstance(signature, Mapping) else None
    kwargs = signature.get("kwargs") or {} if isinstance(signature, Mapping) else {}
    if kind in {"chain", "group"} and "tasks" in kwargs:
        yield from _each(kwargs["tasks"])
    elif kind == "chord" and "header" in kwargs:
        header = kwargs["header"]
        yield from tasks_of(header) if isinstance(header, Mapping) else _each(header)
        yield from tasks_of(kwargs["body"])
    elif isinstance(signature, Mapping):
        yield signature
    elif isinstance(signature, Sequence) and not isinstance(signature, str):
        yield from _each(signature)


def first_tasks_of(signature: Any) -> Iterator[Any]:
    """Those of the single tasks within a signature that its dispatch sends; the others are sent by them."""
    kind, kwargs = signature.get("subtask_type"), signature.get("kwargs") or {}
    if kind == "chain" and kwargs.get("tasks"):
        yield from first_tasks_of(kwargs["tasks"][0])
    elif kind == "group" and "tasks" in kwargs:
        for task in kwargs["tasks"]:
            yield from first_tasks_of(task)
    elif kind == "chord" and "header" in kwargs:
        header = kwargs["header"]
        for task in [header] if isinstance(header, Mapping) else header:
            yield from first_tasks_of(task)
    else:
        yield signature


def delay_start(signature: Any, seconds: float) -> None:
    """Let those tasks of a signature that its dispatch sends wait, save those that say themselves how long."""
    for task in first_tasks_of(signature):
        if task["options"].get("eta") is None:
            task["options"].setdefault("countdown", seconds)


def mark_members(signature: Any, batch_id: str, first_index: int, queue: str | None) -> int:
    """Make each task within a signature a member of a batch, from ``first_index``; return the index after the last."""
    index = first_index
    for task in tasks_of(signature):
        options = task["options"]
        header = replace(read_header(options.get("headers")), batch_id=batch_id, index=index)
        options["headers"] = with_header(options.get("headers"), header)
        if queue is not None:
            options.setdefault("queue", queue)
        index += 1
    return index


def change_headers(signatures: Any, change: Callable[[Header], Header]) -> None:
    """Change the library's header of every task within a signature, or a list of them, and of what follows each."""
    for task in tasks_of(signatures) if signatures else ():
        options = task["options"]
        options["headers"] = with_header(options.get("headers"), change(read_header(options.get("headers"))))
        change_headers(options.get("chain"), change)
        change_headers(options.get("chord"), change)


def members_of(signatures: Any, batch_id: str) -> tuple[int, ...]:
    """The indices of a batch's members among the tasks of a signature, or of a list of them."""
    found = []
    for task in tasks_of(signatures) if signatures else ():
        options = task.get("options") or {}
        header = (options.get("headers") or {}).get(NAME)
        if isinstance(header, Mapping) and header.get("batch_id") == batch_id and isinstance(header.get("index"), int):
            found.append(header["index"])
        found += members_of(options.get("chain"), batch_id)
        found += members_of(options.get("chord"), batch_id)
    return tuple(dict.fromkeys(found))


def _each(signatures: Any) -> Iterator[Any]:
    for signature in signatures:
        yield from tasks_of(signature)
