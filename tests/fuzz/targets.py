"""Readers of what comes from a broker or a store: each takes any bytes, and may refuse them in one way only."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from kombu.utils.json import loads

from celery_laravel.bootsteps import bad_messages
from celery_laravel.errors import InvalidMessageError
from celery_laravel.message import parked
from celery_laravel.message.header import Header
from celery_laravel.message.packs import read_pack
from celery_laravel.stores.records import AttemptEnd, MemberEnd, MemberState
from celery_laravel.transport.database import payload
from celery_laravel.transport.database.messages import Reserved
from celery_laravel.worker.debts import Debt

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS: dict[str, list[Any]] = {
    "header": [
        {"v": 1},
        {"v": 1, "turn": 2, "attempts": 1, "exceptions": 1, "deadline": 1.5, "serializer": "json"},
        {"v": 1, "batch_id": "b", "index": 0, "rest": [[1, 3]], "slots": {"x": ["60:"]}},
        {"v": 1, "unique": "unique:x", "unique_for": 60.0, "waits": 1, "debounce": ["k", 1, 2], "is_counted": True},
        {"v": 1, "chain": {"id": "c", "catch": [{"task": "t"}], "round": 1}, "revoked": True, "other": [1]},
    ],
    "headers": [
        {"task": "t", "id": "i", "timelimit": [1, None], "stamped_headers": ["a"], "stamps": {"a": 1}, "group": None},
    ],
    "follows": [
        [[], {}, {"callbacks": [{"task": "t"}], "errbacks": None, "chain": [{"task": "t"}], "chord": {"task": "t"}}],
    ],
    "parked": [
        {"headers": {"id": "i", "task": "t", "eta": "2030-01-01", "laravel": {"v": 1}}, "body": "e30="},
        {
            "body": "e30=",
            "is_base64": True,
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "headers": {"id": "i"},
            "exchange": "",
            "exchange_type": None,
            "routing_key": "q",
            "options": {},
        },
    ],
    "debt": [
        Debt("j", "t", unlock=("unique:x",), attempt=AttemptEnd("j", 0, True, 1, 0)).encode(),
        Debt("j", "t", member=MemberEnd("b", 0, "j", MemberState.FAILED, (1, 2))).encode(),
    ],
    "pack": [
        [
            "b",
            [{"headers": {"task": "t"}, "own": {"v": 1, "batch_id": "b"}, "same": ["id", "root_id"]}],
            [[0, "i", 0, [1], {}]],
        ],
    ],
    "row": [
        {"body": "e30=", "headers": {"id": "i"}, "properties": {"delivery_info": {"exchange": "", "routing_key": "q"}}},
    ],
}
"""What is good, to begin with."""


def header(data: Any) -> None:
    """The library's header: what is read is written again as it was."""
    read = Header.decode(data)
    assert Header.decode(json.loads(json.dumps(read.encode()))) == read


def headers(data: Any) -> None:
    """Celery's headers, before Celery reads them."""
    bad_messages._check_headers(data)


def follows(data: Any) -> None:
    """What is to follow a job."""
    bad_messages._check_what_follows(SimpleNamespace(payload=data))


def parked_message(data: Any) -> None:
    """A delayed message: one that can be marked as revoked is seen to be."""
    text = json.dumps(data)
    parked.headers_of(text)
    try:
        assert parked.is_marked_as_revoked(parked.headers_of(parked.marked_as_revoked(text)))
    finally:
        parked.Published.from_text(text)


def debt(data: Any) -> None:
    """What a store is owed."""
    Debt.decode(data)


def pack(data: Any) -> None:
    """A pack, with everything that is read of its members when they run."""
    if isinstance(data, list) and len(data) == 3:
        batch, kinds, members = data
        for member in read_pack(batch, kinds, members, carrier={}).members:
            member.request  # noqa: B018  made when it is asked for


def row(data: Any) -> None:
    """A row of the broker's table."""
    payload.decode(Reserved(1, "q", "lease", 2, 0, json.dumps(data)))


_FAIL_THE_PAYING_JOB = (TypeError, ValueError, LookupError, AttributeError, OverflowError)

TARGETS: dict[str, tuple[Callable[[Any], None], tuple[type[Exception], ...]]] = {
    "header": (header, (InvalidMessageError,)),
    "headers": (headers, (TypeError, ValueError)),
    "follows": (follows, (ValueError,)),
    "parked": (parked_message, (InvalidMessageError,)),
    "debt": (debt, _FAIL_THE_PAYING_JOB),
    "pack": (pack, (InvalidMessageError,)),
    "row": (row, (ValueError,)),
}
"""Each reader, and how it may refuse."""


def read(target: str, data: bytes) -> None:
    """Give a reader what a message or a record says, if it is JSON at all.

    Raises:
        Exception: It refused it in another way than it says.
    """
    try:
        value = loads(data)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, LookupError):
        return
    reader, refusals = TARGETS[target]
    try:
        reader(value)
    except refusals:
        return
