"""The Lua scripts of ``lua/``, and commands in the form they travel in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Argument = str | bytes | int
Call = tuple[Sequence[str], Sequence[Argument]]
"""Keys and arguments of a script."""

_REQUIRE = re.compile(r"^-- requires (\w+\.lua)$", re.MULTILINE)


class Script:
    """One script, called by its digest.

    A line ``-- requires NAME.lua`` puts that file before the script: Redis
    offers scripts no other way to share functions.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = "\n".join(_sources(f"{name}.lua").values()).encode()
        self.digest = sha1(self.source, usedforsecurity=False).hexdigest().encode()
        self._head = b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % self.digest
        self._full_head = b"$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (len(self.source), self.source)

    def packed(self, keys: Sequence[str], arguments: Sequence[Argument]) -> bytes:
        """A call by digest, ready to be sent.

        Packed here since redis-py's own packing, made for everything, takes
        longer than the rest of the call.
        """
        return _packed(self._head, keys, arguments)

    def packed_in_full(self, keys: Sequence[str], arguments: Sequence[Argument]) -> bytes:
        """A call with the script's text, which makes the server remember it."""
        return _packed(self._full_head, keys, arguments)


@lru_cache
def script(name: str) -> Script:
    """The script of that name, read from its file once."""
    return Script(name)


def packed_command(arguments: Iterable[Argument]) -> bytes:
    """Any command, ready to be sent."""
    parts = [_bulk(argument) for argument in arguments]
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


def _packed(head: bytes, keys: Sequence[str], arguments: Sequence[Argument]) -> bytes:
    count = b"%d" % len(keys)
    parts = [b"*%d\r\n%b$%d\r\n%b\r\n" % (3 + len(keys) + len(arguments), head, len(count), count)]
    parts += map(_bulk, keys)
    parts += map(_bulk, arguments)
    return b"".join(parts)


def _bulk(argument: Argument) -> bytes:
    if isinstance(argument, str):
        argument = argument.encode()
    elif isinstance(argument, int):
        argument = b"%d" % argument
    return b"$%d\r\n%b\r\n" % (len(argument), argument)


def _sources(file: str) -> dict[str, str]:
    """The text of a file and of what it requires, each once, in the order they are needed."""
    text = (files("celery_laravel.stores.redis") / "lua" / file).read_text("utf-8")
    sources: dict[str, str] = {}
    for required in _REQUIRE.findall(text):
        sources |= _sources(required)
    return {name: source for name, source in sources.items() if name != file} | {file: text}
