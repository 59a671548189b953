"""What the drivers of databases have in common, for the stores and the brokers that use them."""

from __future__ import annotations

import select


def said_by(error: BaseException) -> str:
    """What a driver said, on one line, without the statement and without rows, which hold people's data."""
    said = str(error.args[-1] if error.args else error)  # MySQL's drivers put a number before it
    return " ".join(said.partition("\nDETAIL:")[0].partition("\nLINE ")[0].split()) or type(error).__name__


def has_something_to_read(descriptor: int) -> bool:
    """Whether a socket on which nothing was asked has something all the same: the connection's end, or a notice."""
    if not hasattr(select, "poll"):  # Windows, and where eventlet or gevent has put something of its own in its place
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()  # takes descriptors above 1,023 too
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
