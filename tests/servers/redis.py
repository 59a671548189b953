"""Redis: the area is a logical database, taken with a key that names this run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from kombu.utils.url import maybe_sanitize_url

from celery_laravel.testing.local_servers import redis_server
from celery_laravel.testing.processes import free_port
from tests.servers.areas import is_abandoned, new_area
from tests.servers.contract import Server, ServerMissingError, data_folder, start_and_wait

if TYPE_CHECKING:
    from contextlib import ExitStack

CLAIM = "celery-laravel-test:claimed-by"

# Take a database that nobody uses.
# KEYS[1] the claim   ARGV[1] this run   Returns 1 when taken, otherwise who has it, or 0 where data has no claim.
TAKE = """
if redis.call("DBSIZE") == 0 then redis.call("SET", KEYS[1], ARGV[1]) return 1 end
return redis.call("GET", KEYS[1]) or 0
"""


def at_database(url: str, number: int) -> str:
    """``url`` with its logical database replaced."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))


class Redis:
    name = "redis"
    variable = "TEST_REDIS_URL"
    usual: tuple[str, ...] = ("redis://127.0.0.1:6379/0",)
    package = "redis-server"

    def probe(self, url: str) -> None:
        redis = _client_library()
        try:
            with redis.Redis.from_url(url, socket_timeout=5) as client:
                client.ping()
        except redis.RedisError as error:
            msg = f"no answer at {maybe_sanitize_url(url)}: {error}"
            raise ServerMissingError(msg) from error

    def start(self, closing: ExitStack) -> str:
        folder = closing.enter_context(data_folder())
        port = free_port()
        try:
            process = redis_server(folder, port)
        except FileNotFoundError as error:
            raise ServerMissingError(str(error)) from error
        closing.callback(process.stop)
        return start_and_wait(process, self, f"redis://127.0.0.1:{port}/0")

    def open_area(self, url: str, server: Server) -> str:
        redis = _client_library()
        area = new_area()
        for number in range(15, 0, -1):
            client = redis.Redis.from_url(at_database(url, number), decode_responses=True)
            try:
                taken = _take(client, area)
            except redis.ResponseError:  # the server is set up with fewer databases
                taken = False
            if taken:
                server.closing.callback(client.close)
                server.closing.callback(client.flushdb)  # it was empty, and nobody else's since
                return at_database(url, number)
            client.close()
        msg = f"all logical databases of {maybe_sanitize_url(url)} are in use"
        raise ServerMissingError(msg)


def _take(client: Any, area: str) -> bool:
    holder = client.eval(TAKE, 1, CLAIM, area)
    if isinstance(holder, str) and is_abandoned(holder):
        client.flushdb()
        holder = client.eval(TAKE, 1, CLAIM, area)
    return bool(holder == 1)


def _client_library() -> Any:
    try:
        import redis
    except ImportError as error:
        msg = "the Python package redis is not installed"
        raise ServerMissingError(msg) from error
    return redis
