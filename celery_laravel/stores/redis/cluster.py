"""Calls to a cluster: each goes to the node that has its keys."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from celery_laravel.settings import without_password
from celery_laravel.stores.redis.faults import UNAVAILABLE, Patience, is_unavailable
from celery_laravel.stores.redis.urls import cluster_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.cluster import RedisCluster

    from celery_laravel.stores.redis.scripts import Argument, Call, Script


class ClusterConnections:
    """What `Connections` is to a server, by way of redis-py's client for clusters."""

    server = None

    def __init__(self, url: str) -> None:
        self.url = without_password(url)
        self._full_url = url
        self._pid = os.getpid()
        self._client: RedisCluster | None = None

    def call(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run a script on the node of its keys, which all have one slot, and return its answer.

        Raises:
            StoreUnavailableError: The cluster cannot be reached, or cannot serve.
        """

        def run() -> Any:
            rest = (len(keys), *keys, *arguments)
            try:
                return self._cluster().execute_command("EVALSHA", script.digest.decode(), *rest)  # type: ignore[no-untyped-call]
            except NoScriptError:
                return self._cluster().execute_command("EVAL", script.source, *rest)  # type: ignore[no-untyped-call]

        return self._patiently(run)

    def post(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> None:
        """Run a script; its answer is awaited all the same."""
        self.call(script, keys, arguments)

    def call_many(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run a script several times, one after another: they may be for several nodes."""
        return [self.call(script, keys, arguments) for keys, arguments in calls]

    def command(self, *arguments: Argument) -> Any:
        """Send a command that may be repeated, and return its answer."""
        return self._patiently(lambda: self._cluster().execute_command(*arguments))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the connections to all nodes."""
        client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            client.close()

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        patience: Patience | None = None
        while True:
            try:
                return ask()
            except UNAVAILABLE as error:
                if not is_unavailable(error):
                    raise
                patience = patience or Patience(self.url)
                patience.after(error)

    def _cluster(self) -> RedisCluster:
        client = self._client
        if client is None or self._pid != os.getpid():
            self._pid = os.getpid()
            client = self._client = cluster_of(self._full_url)
        return client
