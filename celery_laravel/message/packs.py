"""Packs: one message that carries many members of a batch, and what it says of each of them.

A pack is the message of a task of this library's own, the *carrier*. Among its
keyword arguments are the batch's id, the *kinds* of its members, and the members.
A kind is all that Celery's messages of several members have in common: headers,
properties, what follows the task. A member is the number of its kind and what is
its own. From the two comes the request that Celery would have made of a message
of the member's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_laravel.errors import InvalidMessageError
from celery_laravel.message.header import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CARRIER = "celery_laravel.pack"
"""The name of the task whose messages are packs."""

MOST = 1000
"""Members in one pack at most."""

_REPRS = frozenset({"argsrepr", "kwargsrepr"})
_FOLLOWING = ("callbacks", "errbacks", "chain", "chord")
_PER_MESSAGE = frozenset({"headers", "correlation_id", "reply_to"}) | _REPRS

_EXCLUDING = ("eta", "expires", "group", "stamps")
"""Headers by which a message is one that cannot travel in a pack."""

MEMBERS_HEADER = frozenset({"v", "batch_id", "index", "deadline", "serializer"})
"""What the library's own header says of a batch's member that differs from others of its kind in its index alone."""


class Kind:
    """What several members of a pack have in common."""

    def __init__(self, data: Mapping[str, Any], carrier: Mapping[str, Any]) -> None:
        headers: dict[str, Any] = {**carrier, **data["headers"]}
        self.task = str(headers["task"])
        self._common = {**headers, **dict.fromkeys(_FOLLOWING), **data.get("follows", {})}
        self._own = dict(data["own"])
        self._same = tuple(map(str, data["same"]))
        self._reply_to = data.get("reply_to")

    @property
    def batch_id(self) -> Any:
        """The batch that they say they are members of."""
        return self._own["batch_id"]

    @property
    def time_limits(self) -> tuple[float | None, float | None]:
        """The hard and the soft limit that their messages ask for."""
        hard, soft = self._common.get("timelimit") or (None, None)
        return hard, soft

    def request(self, job_id: str, index: int, args: Any, kwargs: Any) -> dict[str, Any]:
        """Celery's request of one of them."""
        return {
            **self._common,
            **dict.fromkeys(self._same, job_id),
            NAME: {**self._own, "index": index},
            "args": args,
            "kwargs": kwargs,
            "correlation_id": job_id,
            "reply_to": self._reply_to,
            "properties": {"correlation_id": job_id, "reply_to": self._reply_to},
        }


@dataclass(frozen=True, slots=True)
class Packed:
    """One member of a pack that has been read: where it stands, and what is its own."""

    position: int
    kind: Kind
    id: str
    index: int
    args: Any
    kwargs: Any

    @property
    def task(self) -> str:
        """The name of its task."""
        return self.kind.task

    @property
    def request(self) -> dict[str, Any]:
        """Celery's request of it, made anew each time: there may be very many of them in a worker."""
        return self.kind.request(self.id, self.index, self.args, self.kwargs)


@dataclass(frozen=True)
class Pack:
    """A pack that has been read."""

    batch_id: str
    members: Sequence[Packed]


def may_be_packed(body: Any, options: Mapping[str, Any]) -> bool:
    """Whether a member's message, as Celery is about to publish it, may travel in a pack.

    Not if it is to wait, may expire, has its place in a canvas, or is locked,
    debounced or delayed by this library: all of these are seen to where a
    message is taken from its queue.
    """
    headers = options.get("headers") or {}
    if not isinstance(body, tuple) or options.get("expiration") is not None:
        return False
    if any(headers.get(name) for name in _EXCLUDING) or any(body[2].get(name) for name in ("chain", "chord")):
        return False
    return bool(MEMBERS_HEADER.issuperset(headers.get(NAME) or {"no": "header"}))


def address_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the publishing of several messages must have in common for them to travel in one."""
    return {key: value for key, value in options.items() if key not in _PER_MESSAGE}


def kind_of_message(body: Any, options: Mapping[str, Any], *, keeps_texts: bool) -> dict[str, Any]:
    """The kind of a member's message; ``keeps_texts`` if the texts that show its arguments are its own."""
    headers = dict(options["headers"])
    task_id, own = headers["id"], headers.pop(NAME)
    same = [key for key, value in headers.items() if value == task_id]
    dropped = {*same, *(() if keeps_texts else _REPRS)}
    kind = {
        "headers": {key: value for key, value in headers.items() if key not in dropped and value is not None},
        "own": {key: value for key, value in own.items() if key != "index"},
        "same": same,
    }
    if options.get("reply_to"):
        kind["reply_to"] = options["reply_to"]
    follows = {name: value for name, value in body[2].items() if value}
    if follows:
        kind["follows"] = follows
    return kind


def read_pack(batch: Any, kinds: Any, members: Any, carrier: Mapping[str, Any]) -> Pack:
    """Read what a carrier's message says; ``carrier`` is Celery's own request of it.

    Raises:
        InvalidMessageError: It says something else than a pack does.
    """
    common = {
        "hostname": carrier.get("hostname"),
        "is_eager": False,
        "delivery_info": {**(carrier.get("delivery_info") or {}), "redelivered": False},
    }
    if carrier.get("compression"):
        common["compression"] = carrier["compression"]
    try:
        read = [Kind(data, common) for data in kinds]
        if any(kind.batch_id != batch for kind in read):
            raise ValueError("a member of another batch")  # noqa: TRY301  as whatever else makes no sense
        packed = [
            _checked(Packed(position, read[kind], job_id, index, args, kwargs))
            for position, (kind, job_id, index, args, kwargs) in enumerate(members)
        ]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InvalidMessageError(f"The message of a pack cannot be read: {error!r}.") from error
    return Pack(str(batch), packed)


def _checked(member: Any) -> Packed:
    is_known = isinstance(member.id, str) and isinstance(member.index, int) and member.index >= 0
    if not is_known or not isinstance(member.args, (list, tuple)) or not isinstance(member.kwargs, dict):
        raise TypeError(f"member {member.position} is {member!r}")
    return member  # type: ignore[no-any-return]  # it is one, of whatever was sent
