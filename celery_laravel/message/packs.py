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

_LAST_OPTIONS = frozenset({"v", "batch_id", "index", "deadline", "serializer"})
"""What the library's own header may say of a member of a pack."""


@dataclass(frozen=True)
class Packed:
    """One member of a pack that has been read: where it stands, and Celery's request of it.

    ``kind`` is the number of its kind.
    """

    position: int
    kind: int
    id: str
    index: int
    task: str
    request: Mapping[str, Any]

    @property
    def args(self) -> Any:
        """Its positional arguments."""
        return self.request["args"]

    @property
    def kwargs(self) -> Any:
        """Its keyword arguments."""
        return self.request["kwargs"]

    @property
    def time_limits(self) -> tuple[float | None, float | None]:
        """The hard and the soft limit that its message asks for."""
        hard, soft = self.request.get("timelimit") or (None, None)
        return hard, soft


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
    return bool(_LAST_OPTIONS.issuperset(headers.get(NAME) or {"no": "header"}))


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
    try:
        base = {
            "hostname": carrier.get("hostname"),
            "is_eager": False,
            "delivery_info": {**(carrier.get("delivery_info") or {}), "redelivered": False},
        }
        if carrier.get("compression"):
            base["compression"] = carrier["compression"]
        bases = [_base_of(kind, base, batch) for kind in kinds]
        read = tuple(_read(position, bases, kinds, *member) for position, member in enumerate(members))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InvalidMessageError(f"The message of a pack cannot be read: {error!r}.") from error
    return Pack(str(batch), read)


def _base_of(kind: Mapping[str, Any], base: Mapping[str, Any], batch_id: Any) -> dict[str, Any]:
    headers: dict[str, Any] = {**base, **kind["headers"], **dict.fromkeys(_FOLLOWING), **kind.get("follows", {})}
    if kind["own"]["batch_id"] != batch_id:
        raise ValueError(kind["own"]["batch_id"])
    str(headers["task"])
    return headers


def _read(  # noqa: PLR0917  as a member travels
    position: int,
    bases: Sequence[dict[str, Any]],
    kinds: Any,
    kind: int,
    job_id: str,
    index: int,
    args: Any,
    kwargs: Any,
) -> Packed:
    of_kind = kinds[kind]
    reply_to = of_kind.get("reply_to")
    request = {
        **bases[kind],
        **dict.fromkeys(of_kind["same"], job_id),
        NAME: {**of_kind["own"], "index": index},
        "args": args,
        "kwargs": kwargs,
        "correlation_id": job_id,
        "reply_to": reply_to,
        "properties": {"correlation_id": job_id, "reply_to": reply_to},
    }
    return Packed(position, kind, str(job_id), int(index), request["task"], request)
