from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_laravel.middleware.keys import LONGEST, key_of, key_text, shortened


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


def job(**arguments: Any) -> Any:
    return SimpleNamespace(arguments=arguments, name="shop.sync")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("search", "search"),
        ("", ""),
        (None, ""),
        (42, "42"),
        ("42", "42"),
        (True, "true"),
        (1.5, "1.5"),
        (("eu", 42), '["eu", 42]'),
        (["eu", 42], '["eu", 42]'),
        (("eu", None), '["eu", null]'),
        (("a", "b,c"), '["a", "b,c"]'),
        (Colour.RED, "red"),
        (Level.HIGH, "3"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (PurePosixPath("/var/backup"), "/var/backup"),
        (date(2026, 5, 1), "2026-05-01"),
        (datetime(2026, 5, 1, tzinfo=timezone.utc), "2026-05-01T00:00:00+00:00"),
        (timedelta(minutes=1), "0:01:00"),
        (b"\x01\xff", "01ff"),
        ({"b", "a"}, '["a", "b"]'),
        ({"b": 1, "a": (2,)}, '{"a": [2], "b": 1}'),
        ("müller", "müller"),
    ],
)
def test_plain_values_have_a_text_that_people_can_read(value: Any, text: str) -> None:
    assert key_text(value) == text


def test_values_that_only_look_alike_when_joined_have_keys_of_their_own() -> None:
    assert len({key_text(value) for value in (("a", "b,c"), ("a,b", "c"), ("a", "b", "c"), ("a", ("b", "c")))}) == 4


@pytest.mark.parametrize("value", [object(), job(), lambda: 1, ("eu", object()), {"user": object()}])
def test_an_object_whose_text_may_differ_between_processes_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot be a key.*such as its id"):
        key_text(value)


def test_long_texts_keep_their_beginning_and_differ_when_their_ends_do() -> None:
    longest = "x" * LONGEST
    assert key_text(longest) == longest
    keys = {key_text(longest + end) for end in ("1", "2", "12")}
    assert len(keys) == 3
    assert all(len(key) <= LONGEST and key.startswith("x" * 100) for key in keys)


@given(st.text(st.characters(), max_size=600))  # control characters and lone surrogates included
def test_every_text_makes_a_key_that_any_store_can_keep(text: str) -> None:
    key = key_text(text)
    assert len(key) <= LONGEST
    assert key.isprintable()
    key.encode()
    assert shortened(key) == key


def test_keys_are_the_same_in_every_process() -> None:
    values = [("eu", 42), "x" * 500, None, 7]
    code = (
        "import json; from celery_laravel.middleware.keys import key_text; "
        f"values = {values!r} + [{{'b', 'a', 'c'}}]; print(json.dumps([key_text(value) for value in values]))"
    )
    environment = [{"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)} for seed in ("1", "2")]
    printed = [
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True) for env in environment
    ]
    keys = [json.loads(process.stdout) for process in printed]
    assert keys[0] == keys[1] == [key_text(value) for value in [*values, {"a", "b", "c"}]]


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ("user_id", "7"),
        ("region", "region"),
        ("", ""),
        (None, ""),
        (12, "12"),
        (("tenant", "user_id"), '["eu", 7]'),
        (["user_id"], "[7]"),
        (("user_id", "search", 3), '[7, "search", 3]'),
        (lambda job: job.arguments["user_id"] % 5, "2"),
        (lambda job: "user_id", "user_id"),
    ],
)
def test_by_names_arguments_or_is_a_value_or_a_callable_of_the_job(by: Any, key: str) -> None:
    assert key_of(by, job(user_id=7, tenant="eu")) == key


def test_an_argument_that_is_the_name_of_another_stands_for_itself() -> None:
    assert key_of("field", job(field="user_id", user_id=7)) == "user_id"
