"""The connections of an app whose Redis broker is to lose nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from kombu import connection as kombus
from kombu.utils.collections import HashedSeq
from kombu.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from kombu.transport.base import Transport


_HERE = "celery_laravel.transport.redis.transport"
_SAFE = {
    "kombu.transport.redis:Transport": f"{_HERE}:Transport",
    "kombu.transport.redis:SentinelTransport": f"{_HERE}:SentinelTransport",
}

_Base: Any = object  # mixed in before one of kombu's classes


class _Safe(_Base):
    def get_transport_cls(self) -> type[Transport]:
        """The transport that is used at present; another one after failing over to another URL."""
        chosen = super().get_transport_cls()
        ours = _SAFE.get(f"{chosen.__module__}:{chosen.__qualname__}")
        return cast("type[Transport]", symbol_by_name(ours) if ours else chosen)

    def __eqhash__(self) -> HashedSeq:
        """Keep a pool apart from one of kombu's connections to the same broker: kombu shares pools between apps."""
        return HashedSeq(_HERE, *super().__eqhash__())

    def Pool(self, limit: int | None = None, **kwargs: Any) -> _Pool:  # noqa: N802 - kombu's name
        """A pool of connections like this one; kombu makes its own kind whichever this is."""
        return _Pool(self, limit, **kwargs)


class Connection(_Safe, kombus.Connection):
    """A kombu connection that uses this library's transport where its URL asks for kombu's of Redis.

    The URL, what is shown of it, and any other transport stay as they are; so
    does a Redis transport that somebody else made from kombu's.
    """


class _PooledConnection(_Safe, kombus.PooledConnection):
    pass


class _Pool(kombus.ConnectionPool):
    def new(self) -> _PooledConnection:
        return _PooledConnection(self, **dict(self.connection._info(resolve=False)))  # noqa: SLF001 - as kombu's does
