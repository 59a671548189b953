from __future__ import annotations

import json
import string
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_laravel import InvalidMessageError
from celery_laravel.message.header import NAME, NOT_REPUBLISHED, VERSION, Header, read_header, with_header

counts = st.integers(min_value=0, max_value=2**40)
positive = st.integers(min_value=1, max_value=2**40)
texts = st.text(max_size=20)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
FIELDS = tuple(field.name for field in fields(Header) if field.name != "extra")
extras = st.dictionaries(texts.filter(lambda key: key not in {*FIELDS, "v"}), plain, max_size=3)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    in_batch = draw(st.booleans())
    return Header(
        turn=draw(counts),
        attempts=draw(counts),
        exceptions=draw(counts),
        deadline=draw(st.none() | st.floats(min_value=0, max_value=4e9)),
        batch_id=draw(texts) if in_batch else None,
        index=draw(counts) if in_batch else None,
        callback=draw(st.none() | texts),
        serializer=draw(st.none() | texts),
        slots=draw(st.dictionaries(texts, st.lists(texts, max_size=3), max_size=3)),
        unique=draw(st.none() | texts),
        unique_for=draw(st.none() | st.floats(min_value=0.001, max_value=4e9)),
        waits=draw(counts),
        debounce=draw(st.none() | st.tuples(texts, positive, positive).map(list)),
        is_counted=draw(st.booleans()),
        extra=draw(extras),
    )


@given(headers())
def test_what_travels_arrives(header: Header) -> None:
    assert Header.decode(json.loads(json.dumps(header.encode()))) == header


@given(headers())
def test_an_empty_header_is_not_sent_and_any_other_is(header: Header) -> None:
    sent = with_header({"mine": 1}, header)
    assert (NAME in sent) is not header.is_empty
    assert sent["mine"] == 1
    assert read_header(sent) == header


@given(plain | st.dictionaries(st.sampled_from([*FIELDS, "v"]), plain) | st.binary() | st.floats())
def test_nothing_but_an_invalid_message_is_ever_raised(data: Any) -> None:
    try:
        Header.decode(data)
    except InvalidMessageError as error:
        assert NAME in str(error)  # noqa: PT017  most examples raise nothing


@given(headers(), st.sampled_from(FIELDS), plain)
def test_a_damaged_field_is_refused_or_makes_sense(header: Header, field: str, value: Any) -> None:
    try:
        read = Header.decode({**header.encode(), field: value})
    except InvalidMessageError:
        return
    assert isinstance(read.turn, int)
    assert read.deadline is None or 0 <= read.deadline < float("inf")
    assert (read.batch_id is None) == (read.index is None)
    assert all(isinstance(key, str) for keys in read.slots.values() for key in keys)


@pytest.mark.parametrize("version", [0, VERSION + 1, str(VERSION), None, True, 1.5, [1]])
def test_another_version_is_refused_with_both_versions_named(version: Any) -> None:
    with pytest.raises(InvalidMessageError, match=f"version {VERSION}") as caught:
        Header.decode({"v": version})
    assert repr(version) in str(caught.value)


@pytest.mark.parametrize("deadline", [10**400, -(10**400), float("nan"), float("inf"), 1e300, -1, "1", True])
def test_a_deadline_beyond_the_calendar_is_refused(deadline: Any) -> None:
    with pytest.raises(InvalidMessageError, match="deadline"):
        Header.decode({"v": VERSION, "deadline": deadline})


@pytest.mark.parametrize("half", [{"batch_id": "b"}, {"index": 0}])
def test_half_a_member_is_refused(half: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessageError, match="batch"):
        Header.decode({"v": VERSION, **half})


@pytest.mark.parametrize("headers", [None, {}, {"other": 1}])
def test_a_message_without_the_header_is_a_first_turn(headers: Any) -> None:
    assert read_header(headers) == Header()
    assert read_header(headers).is_empty


def test_what_brokers_wrote_is_not_sent_again() -> None:
    delivered = dict.fromkeys(NOT_REPUBLISHED, 1) | {"mine": 1}
    assert with_header(delivered, Header()) == {"mine": 1}


def test_a_next_turn_keeps_everything_else() -> None:
    header = Header(batch_id="b", index=3, callback="c", serializer="pickle", extra={"new": string.digits})
    following = header.next_turn(attempts=2, exceptions=1, deadline=9.0)
    assert (following.turn, following.attempts, following.exceptions, following.deadline) == (1, 2, 1, 9.0)
    assert (following.batch_id, following.index, following.callback, following.serializer) == ("b", 3, "c", "pickle")
    assert following.extra == header.extra
    again = following.afresh()
    assert (again.turn, again.attempts, again.exceptions, again.deadline) == (2, 0, 0, None)
