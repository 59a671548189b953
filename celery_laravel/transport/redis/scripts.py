"""The Lua scripts of ``lua/``, each read once."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Script:
    """One script: the command that calls it by its digest, and the one that makes the server remember it."""

    def __init__(self, name: str) -> None:
        self.text = (files("celery_laravel.transport.redis") / "lua" / f"{name}.lua").read_text("utf-8")
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[str], arguments: Sequence[Any], *, in_full: bool = False) -> list[Any]:
        """What to send; ``in_full`` where the server may not know the script."""
        call = ["EVAL", self.text] if in_full else ["EVALSHA", self.digest]
        return [*call, len(keys), *keys, *arguments]

    def run(self, client: Any, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run it and return what it returns; a server that has forgotten it is told again."""
        try:
            return client.execute_command(*self.command(keys, arguments))
        except NoScriptError:
            return client.execute_command(*self.command(keys, arguments, in_full=True))


@lru_cache
def script(name: str) -> Script:
    """The script of that name."""
    return Script(name)
