"""Names of the areas that test runs have on shared servers, from which one can tell whose they are."""

from __future__ import annotations

import os
import re
import secrets
import socket
import zlib

PREFIX = "celery_laravel_test"


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def new_area() -> str:
    """A name that no other run has, and that says which process on which machine made it."""
    return f"{PREFIX}_{_machine()}_{os.getpid()}_{secrets.token_hex(3)}"


def is_abandoned(name: str) -> bool:
    """Whether ``name`` was made by a process of this machine that is gone.

    Areas of other machines are left alone: nobody here can tell whether their run goes on.
    """
    match = re.fullmatch(rf"{PREFIX}_{_machine()}_(\d+)_[0-9a-f]+", name)
    if match is None:
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # alive, and somebody else's
    return False
