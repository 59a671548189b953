"""The ``laravel`` header: everything this library adds to a message.

A message without the header is a job's first turn, with nothing behind it. The
header travels as a small mapping of plain values, so that any serializer and
any broker carries it, and begins with a version.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeGuard

from celery_laravel.errors import InvalidMessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NAME = "laravel"
VERSION = 1

NOT_REPUBLISHED = frozenset({"redelivered", "x-delivery-count", "x-acquired-count"})
"""Headers that brokers write on a delivery; on a message that is sent again they would be lies."""

_END_OF_TIME = 253_402_300_800
"""The year 10000 in seconds since the epoch, where datetimes end."""

_LONGEST_CANVAS = 1_000_000
"""Members in one signature, at most: more in a header is damage, not to be counted through."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Header:
    """What a message says about its job.

    ``turn`` counts how often the job has been put back, ``attempts`` and
    ``exceptions`` what lies behind it, ``deadline`` is when ``retry_until`` ends
    (seconds since the epoch). ``batch_id`` and ``index`` say which member of
    which batch it is, and ``rest`` which members will never run should it fail, as ranges whose end is
    not among them; ``callback`` that it is a callback of a batch, ``serializer``
    is the one this dispatch asked for (Celery forgets it when a message is sent
    again). ``slots`` are the starts that limiters keep for the job: their keys,
    by the limiter's name in the store. ``unique`` is the key of the unique lock
    that the job holds under its id, for ``unique_for`` seconds from its dispatch
    where that is given; ``waits`` counts how often in a row it was put back
    because another job held the lock, or a copy of it ran. ``debounce`` is its place among the
    dispatches of a debounced job: the key, the period, the number. ``chain`` is
    the chain with callbacks in which it is a step: its ``id``, the signatures
    that ``catch`` a failure, as data, and in which ``round`` it is, which counts
    the retries of failed steps. ``is_counted``: its starts are written down even
    if its task declares no limit, as there may be a copy of the message, whose job
    has left a pack. ``revoked`` says that it was revoked while it waited in the
    store. Keys of the same version that are not known are carried along in
    ``extra``.
    """

    turn: int = 0
    attempts: int = 0
    exceptions: int = 0
    deadline: float | None = None
    batch_id: str | None = None
    index: int | None = None
    rest: Sequence[Sequence[int]] = ()
    callback: str | None = None
    serializer: str | None = None
    slots: Mapping[str, Sequence[str]] = field(default_factory=lambda: _NOTHING)
    unique: str | None = None
    unique_for: float | None = None
    waits: int = 0
    debounce: Sequence[Any] | None = None
    chain: Mapping[str, Any] | None = None
    is_counted: bool = False
    revoked: bool = False
    extra: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to say, so that the message goes without the header."""
        return self == _EMPTY

    @property
    def is_followed(self) -> bool:
        """Whether somebody waits for the job's end, so that it must not be lost: a batch, or a chain's ``catch``."""
        return self.batch_id is not None or self.chain is not None

    @property
    def was_dispatched(self) -> bool:
        """Whether the job's dispatch is over, so that this message only puts it back."""
        return bool(self.turn) or self.unique is not None or self.debounce is not None

    def next_turn(
        self,
        *,
        attempts: int,
        exceptions: int,
        deadline: float | None,
        slots: Mapping[str, Sequence[str]] | None = None,
    ) -> Header:
        """The header of the message that puts the job back; ``slots`` None leaves those that it says."""
        slots = self.slots if slots is None else slots
        return replace(
            self, turn=self.turn + 1, attempts=attempts, exceptions=exceptions, deadline=deadline, slots=slots
        )

    def afresh(self, *, deadline: float | None = None) -> Header:
        """The header of a failed job that is tried again: attempt 1, in a turn of its own."""
        chain = next_round(self.chain)
        return replace(
            self,
            turn=self.turn + 1,
            attempts=0,
            exceptions=0,
            deadline=deadline,
            slots=_NOTHING,
            chain=chain,
            revoked=False,
        )

    def encode(self) -> dict[str, Any]:
        """The header as it travels; fields that say nothing are left out."""
        data: dict[str, Any] = {"v": VERSION, **self.extra}
        for key, default in _FIELDS.items():
            value = getattr(self, key)
            if value != default:
                data[key] = value
        return data

    @classmethod
    def decode(cls, data: Any) -> Header:
        """Read a header, or an empty one from None.

        Raises:
            InvalidMessageError: It is not a mapping, of another version, or a
                field has the wrong type.
        """
        if data is None:
            return _EMPTY
        if not isinstance(data, dict):
            raise InvalidMessageError(f"The message's {NAME!r} header is not a mapping but {type(data).__name__}.")
        version = data.get("v")
        if version != VERSION or isinstance(version, bool):
            msg = (
                f"The message's {NAME!r} header has version {version!r}; this library reads version {VERSION}. "
                "Update celery-laravel on the workers before the processes that dispatch."
            )
            raise InvalidMessageError(msg)
        values: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for key, value in data.items():
            if key in _FIELDS:
                values[key] = _checked(key, value)
            elif key != "v":
                extra[str(key)] = value
        if (values.get("batch_id") is None) != (values.get("index") is None):
            raise InvalidMessageError(
                f"The message's {NAME!r} header names a batch without a member, or a member without a batch."
            )
        return cls(**values, extra=extra or _NOTHING)


_EMPTY = Header()
_FIELDS = {it.name: getattr(_EMPTY, it.name) for it in fields(Header) if it.name != "extra"}
"""What travels under its own name, with the value that says nothing."""


def has_header(headers: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a message carries the library's header. Celery's eager tasks take anything for headers, even a number."""
    return isinstance(headers, dict) and NAME in headers


def is_callback(headers: Any) -> bool:
    """Whether a message is a callback of a batch, as far as can be told without reading its header in full."""
    return has_header(headers) and isinstance(headers[NAME], dict) and headers[NAME].get("callback") is not None


def read_header(headers: Mapping[str, Any] | None) -> Header:
    """The library's header among a message's, empty when there is none."""
    return Header.decode(headers[NAME]) if has_header(headers) else _EMPTY


def with_header(headers: Mapping[str, Any] | None, header: Header) -> dict[str, Any]:
    """A message's headers with the library's in them, less those that brokers write on a delivery."""
    result = {key: value for key, value in (headers or {}).items() if key not in NOT_REPUBLISHED and key != NAME}
    if not header.is_empty:
        result[NAME] = header.encode()
    return result


def _checked(key: str, value: Any) -> Any:
    if not (value is None and key in _MAY_BE_NONE) and not _IS_VALID[key](value):
        raise InvalidMessageError(f"The message's {NAME!r} header has {key} = {value!r}.")
    return value


def next_round(chain: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What a chain's steps say once a failed one is tried again, so that another failure is caught again."""
    return None if chain is None else {**chain, "round": chain.get("round", 0) + 1}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_instant(value: Any) -> bool:
    return _is_number(value) and 0 <= value < _END_OF_TIME


def _is_length(value: Any) -> bool:
    return _is_number(value) and 0 < value < float("inf")


def _is_chain(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        return False
    catch = value.get("catch", [])
    is_catch = isinstance(catch, list) and all(isinstance(item, dict) and "task" in item for item in catch)
    return is_catch and _is_count(value.get("round", 0))


def _are_slots(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) and _are_texts(keys) for name, keys in value.items())


def _are_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_text, value))


def _are_ranges(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_range, value))


def _is_range(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2:  # noqa: PLR2004  first, end
        return False
    return all(map(_is_count, value)) and 0 < value[1] - value[0] <= _LONGEST_CANVAS


def _is_place(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 3:  # noqa: PLR2004  key, period, number
        return False
    return _is_text(value[0]) and all(_is_count(part) and part > 0 for part in value[1:])


_IS_VALID: Mapping[str, Callable[[Any], bool]] = {
    "turn": _is_count,
    "attempts": _is_count,
    "exceptions": _is_count,
    "deadline": _is_instant,
    "batch_id": _is_text,
    "index": _is_count,
    "rest": _are_ranges,
    "callback": _is_text,
    "serializer": _is_text,
    "slots": _are_slots,
    "unique": _is_text,
    "unique_for": _is_length,
    "waits": _is_count,
    "debounce": _is_place,
    "chain": _is_chain,
    "is_counted": _is_flag,
    "revoked": _is_flag,
}
_MAY_BE_NONE = frozenset(name for name, default in _FIELDS.items() if default is None)
