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
    parts = _parts_of(signature)
    if parts is None:
        yield signature
    else:
        for part in parts[0]:
            yield from tasks_of(part)


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
    """Make each task within a signature a member of a batch, from ``first_index``; return the index after the last.

    Each is told, too, which members will never run should it fail.
    """
    index = first_index
    for task, rest in _with_rest(signature, first_index, ()):
        options = task["options"]
        header = replace(read_header(options.get("headers")), batch_id=batch_id, index=index, rest=rest)
        options["headers"] = with_header(options.get("headers"), header)
        if queue is not None:
            options.setdefault("queue", queue)
        index += 1
    return index


def change_headers(signatures: Any, change: Callable[[Header], Header]) -> None:
    """Change the library's header of every task within a signature, or a list of them, and of what follows, once."""
    for task in {id(task): task for task in _with_what_follows(signatures)}.values():
        options = task["options"]
        options["headers"] = with_header(options.get("headers"), change(read_header(options.get("headers"))))


def members_of(signatures: Any, batch_id: str) -> tuple[int, ...]:
    """The indices of a batch's members among the tasks of a signature, or of a list of them, and what follows."""
    found = []
    for task in _with_what_follows(signatures):
        header = ((task.get("options") or {}).get("headers") or {}).get(NAME)
        if isinstance(header, Mapping) and header.get("batch_id") == batch_id and isinstance(header.get("index"), int):
            found.append(header["index"])
    return tuple(dict.fromkeys(found))


def _with_what_follows(signatures: Any) -> Iterator[Any]:
    """The single tasks of a signature, or a list of them, and of what follows, which any part of a canvas may name."""
    found = _parts_of(signatures)
    if found is None:
        yield signatures
    else:
        for part in found[0]:
            yield from _with_what_follows(part)
    options = (signatures.get("options") or {}) if isinstance(signatures, Mapping) else {}
    for following in (options.get("chain"), options.get("chord")):
        if following:
            yield from _with_what_follows(following)


def _parts_of(signature: Any) -> tuple[Sequence[Any], bool] | None:
    """What a signature is made of, and whether each part waits for those before it; None of a single task's."""
    if not isinstance(signature, Mapping):
        is_list = isinstance(signature, Sequence) and not isinstance(signature, str)
        return (signature if is_list else ()), False
    kind, kwargs = signature.get("subtask_type"), signature.get("kwargs") or {}
    if kind in {"chain", "group"} and "tasks" in kwargs:
        return list(kwargs["tasks"]), kind == "chain"
    if kind == "chord" and "header" in kwargs:
        header = kwargs["header"]
        return [header if isinstance(header, Mapping) else list(header), kwargs["body"]], True
    return None


def _with_rest(
    signature: Any, first: int, after: tuple[tuple[int, int], ...]
) -> Iterator[tuple[Any, tuple[tuple[int, int], ...]]]:
    """Each task of a signature that begins with member ``first``, and the members that wait for it, as ranges."""
    found = _parts_of(signature)
    if found is None:
        yield signature, after
        return
    parts, are_steps = found
    sizes = [sum(1 for _ in tasks_of(part)) for part in parts]
    end = first + sum(sizes)
    for part, size in zip(parts, sizes, strict=True):
        following = first + size
        own = ((following, end),) if are_steps and following < end else ()
        yield from _with_rest(part, first, (*own, *after))
        first = following
