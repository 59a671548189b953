from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, Signature, chain, chord, group

from celery_laravel.message.canvas import change_headers, mark_members, members_of, tasks_of
from celery_laravel.message.header import read_header

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def step(app: Celery) -> Any:
    @app.task(name="step")
    def step(*args: Any) -> Any:
        return args

    return step


def letters(signature: Any) -> str:
    return "".join(task["args"][0] for task in tasks_of(signature))


SHAPES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "task": (lambda s: s("a"), "a"),
    "chain": (lambda s: chain(s("a"), s("b"), s("c")), "abc"),
    "chain of one": (lambda s: chain(s("a")), "a"),
    "group": (lambda s: group(s("a"), s("b")), "ab"),
    "group of a generator": (lambda s: group(s(x) for x in "abc"), "abc"),
    "chord": (lambda s: chord([s("a"), s("b")], s("c")), "abc"),
    "chord of a group": (lambda s: chord(group(s("a"), s("b")), s("c")), "abc"),
    "chain with a chord": (lambda s: chain(s("a"), group(s("b"), s("c")), s("d")), "abcd"),
    "chain that ends in a group": (lambda s: chain(s("a"), group(s("b"), s("c"))), "abc"),
    "group of chains": (lambda s: group(chain(s("a"), s("b")), chain(s("c"), s("d"))), "abcd"),
    "nested": (lambda s: chain(s("a"), group(chain(s("b"), group(s("c"), s("d")), s("e")), s("f")), s("g")), "abcdefg"),
    "list": (lambda s: [s("a"), group(s("b"))], "ab"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("travelled", [False, True])
def test_every_task_of_a_canvas_is_found_once(step: Any, shape: str, travelled: bool) -> None:
    make, expected = SHAPES[shape]
    signature = make(step.si)
    if travelled:
        signature = json.loads(json.dumps(signature))
    assert letters(signature) == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_members_are_numbered_without_gaps(step: Any, shape: str) -> None:
    make, expected = SHAPES[shape]
    signature = make(step.si)
    assert mark_members(signature, "batch", 7, None) == 7 + len(expected)
    found = [read_header(task["options"]["headers"]) for task in tasks_of(signature)]
    assert [header.index for header in found] == list(range(7, 7 + len(expected)))
    assert {header.batch_id for header in found} == {"batch"}
    assert members_of(signature, "batch") == tuple(range(7, 7 + len(expected)))
    assert members_of(signature, "another") == ()


def test_marking_leaves_the_originals_unmarked(step: Any) -> None:
    original = step.si("a")
    marked = chain(original.clone(), original.clone())
    mark_members(marked, "batch", 0, None)
    assert "headers" not in original.options


def test_one_signature_used_twice_is_two_members(step: Any) -> None:
    twice = step.si("a")
    signature = chain(twice, twice)
    mark_members(signature, "batch", 0, None)
    assert members_of(signature, "batch") == (0, 1)


def test_the_batchs_queue_gives_way_to_the_tasks_own(step: Any) -> None:
    signature = group(step.si("a"), step.si("b").set(queue="mine"))
    mark_members(signature, "batch", 0, "theirs")
    assert [task["options"]["queue"] for task in tasks_of(signature)] == ["theirs", "mine"]


def test_headers_of_the_users_stay(step: Any) -> None:
    signature = step.si("a").set(headers={"mine": 1})
    mark_members(signature, "batch", 0, None)
    assert signature.options["headers"]["mine"] == 1


def test_what_follows_a_task_counts_to_its_rest(step: Any) -> None:
    rest = [step.si("b"), step.si("c")]
    for index, signature in enumerate(rest, 1):
        mark_members(signature, "batch", index, None)
    body = step.si("d")
    mark_members(body, "batch", 3, None)
    head = step.si("a").set(chain=rest, chord=body)
    mark_members(head, "batch", 0, None)
    assert set(members_of([head], "batch")) == {0, 1, 2, 3}


@pytest.mark.parametrize("nothing", [None, [], (), {}, "", Signature()])
def test_nothing_has_no_members(nothing: Any) -> None:
    assert members_of(nothing, "batch") == ()


def test_what_follows_a_part_of_a_canvas_is_found_and_changed_once(step: Any) -> None:
    """As in the message of a chord's member whose body is a chord that a group follows."""
    signature = chord([step.si("a")], chain(step.si("b"), step.si("c")))
    rest = group(step.si("d"), step.si("e"))
    last = step.si("f")
    mark_members([signature, rest, last], "batch", 0, None)
    signature.options["chain"] = [rest]
    rest.options["chord"] = signature.body.options["chord"] = last
    assert sorted(members_of(signature, "batch")) == [0, 1, 2, 3, 4, 5]
    change_headers([signature], lambda header: replace(header, turn=header.turn + 1))
    tasks = [task for part in (signature, rest, last) for task in tasks_of(part)]
    assert [read_header(task["options"]["headers"]).turn for task in tasks] == [1] * 6
