"""Which Redis server a client speaks to, so that a store and a broker can be seen to be one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable


def server_of(pool: Any) -> Hashable:
    """The server and the database to which the connections of a pool of redis-py's lead.

    Two that are equal are one server. Two names of one server (``localhost``
    and its address) are not seen to be; a master found by sentinels is known
    by its name and theirs.
    """
    options = pool.connection_kwargs
    database = int(options.get("db") or 0)
    master = getattr(pool, "service_name", None)
    if master is not None:
        sentinels = (client.connection_pool.connection_kwargs for client in pool.sentinel_manager.sentinels)
        return "sentinel", master, frozenset((node.get("host"), node.get("port")) for node in sentinels), database
    if options.get("path"):
        return "unix", options["path"], database
    return "tcp", options.get("host") or "localhost", int(options.get("port") or 6379), database
