"""From a URL to something that makes connections, in the forms that Celery knows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, UnixDomainSocketConnection, parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

from celery_laravel.errors import ConfigurationError
from celery_laravel.settings import without_password

if TYPE_CHECKING:
    from redis.cluster import RedisCluster

CONNECT_TIMEOUT = 2.0
ANSWER_TIMEOUT = 5.0
FORMS = "redis://, rediss://, redis+socket://, sentinel:// or redis+cluster://"


def is_cluster(url: str) -> bool:
    """Whether the URL names nodes of a cluster."""
    return url.partition("://")[0] in {"redis+cluster", "rediss+cluster"}


def connection_pool(url: str) -> Any:
    """What makes connections, each of which connects when it is first used.

    The options of the URL are redis-py's (``socket_timeout``, ``ssl_ca_certs``…).
    ``sentinel://`` takes ``master_name`` besides, and ``sentinel_password`` and
    ``sentinel_username`` for the sentinels themselves. Its sentinels are
    separated by ``;``, each with ``sentinel://`` before it or not; any of them
    may name the database (Celery goes by the first), and no two different ones.

    Raises:
        ConfigurationError: The URL cannot be read, or has an option that is not known.
    """
    try:
        pool = _sentinel_pool(url) if url.startswith("sentinel://") else _pool(url)
        pool.make_connection()  # unconnected: this only checks the options
    except (TypeError, ValueError, AttributeError) as error:
        raise _unreadable(url, error) from error
    return pool


def cluster_of(url: str) -> RedisCluster:
    """A client of a cluster, connected to it.

    Raises:
        ConfigurationError: The URL cannot be read, or has an option that is not known.
    """
    from redis.cluster import ClusterNode, RedisCluster

    scheme, _, rest = url.partition("://")
    nodes, _, query = _split_hosts(rest, scheme)
    try:
        options = _options(f"redis://{nodes[0]}/0{query}")
        hosts = [urlsplit(f"redis://{node}") for node in nodes]
        ConnectionPool(**options).make_connection()  # unconnected: a cluster's client drops what it does not know
        options = {key: value for key, value in options.items() if key not in {"host", "port", "db"}}
        startup = [ClusterNode(host.hostname or "localhost", host.port or 6379) for host in hosts]  # type: ignore[no-untyped-call]
        options["retry"] = Retry(NoBackoff(), 1)  # once more after a MOVED or a lost node; the rest is ours
        return RedisCluster(startup_nodes=startup, ssl=scheme == "rediss+cluster", **options)
    except (TypeError, ValueError, AttributeError) as error:
        raise _unreadable(url, error) from error


def _pool(url: str) -> ConnectionPool:
    if url.startswith("redis+socket://"):
        options = _socket_options(url)
        return ConnectionPool(connection_class=UnixDomainSocketConnection, **options)
    return ConnectionPool(**_options(url))


def _socket_options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    database = query.pop("virtual_host", query.pop("db", "0")).strip("/") or "0"
    options = _options(f"redis://localhost/{database}?{urlencode(query)}")
    for option in ("host", "port", "socket_keepalive"):
        options.pop(option, None)
    credentials = {"username": parts.username, "password": parts.password}
    options |= {key: unquote(value) for key, value in credentials.items() if value}
    return options | {"path": unquote(parts.path)}


def _sentinel_pool(url: str) -> Any:
    nodes, databases, query = _split_hosts(url.removeprefix("sentinel://"), "sentinel")
    query, wanted = _take(query, "master_name", "sentinel_password", "sentinel_username", "ssl")
    if "master_name" not in wanted:
        msg = f"The store {without_password(url)!r} does not say which master: add '?master_name=mymaster' to it."
        raise ConfigurationError(msg)
    if len(databases) > 1:
        msg = f"The store {without_password(url)!r} names the databases {' and '.join(sorted(databases))}: keep one."
        raise ConfigurationError(msg)
    database = int(databases.pop()) if databases else 0  # redis-py takes what is no number for 0
    options = _options(f"redis://{nodes[0]}/{database}{query}")
    for option in ("host", "port"):
        options.pop(option, None)
    hosts = [urlsplit(f"redis://{node}") for node in nodes]
    shared = {key: options[key] for key in ("socket_timeout", "socket_connect_timeout", "socket_keepalive", "retry")}
    own = {key.removeprefix("sentinel_"): value for key, value in wanted.items() if key.startswith("sentinel_")}
    if wanted.get("ssl", "").lower() in {"1", "true", "yes"}:
        options["ssl"] = shared["ssl"] = True
    addresses = [(host.hostname or "localhost", host.port or 26379) for host in hosts]
    sentinel = Sentinel(addresses, sentinel_kwargs=shared | own)  # type: ignore[no-untyped-call]
    return sentinel.master_for(wanted["master_name"], **options).connection_pool  # type: ignore[no-untyped-call]


def _options(url: str) -> dict[str, Any]:
    """The options of a URL of one host, over our own defaults; redis-py's retries give way to those of this store."""
    options: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
    if isinstance(options.get("ssl_cert_reqs"), str):  # Celery's spelling is CERT_REQUIRED, redis-py's is required
        options["ssl_cert_reqs"] = options["ssl_cert_reqs"].removeprefix("CERT_").lower()
    defaults = {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": ANSWER_TIMEOUT,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
    }
    return defaults | options


def _split_hosts(rest: str, scheme: str) -> tuple[list[str], set[str], str]:
    """``h1:1;sentinel://h2:2/0?x=y``, ``h1:1,h2:2?x=y`` as hosts with credentials, databases, the query with its ?."""
    hosts, mark, query = rest.partition("?")
    parts = [host.removeprefix(f"{scheme}://").partition("/") for host in re.split("[;,]", hosts)]
    databases = {path.strip("/") for _, _, path in parts} - {""}
    return [node for node, _, _ in parts if node] or ["localhost"], databases, mark + query


def _take(query: str, *names: str) -> tuple[str, dict[str, str]]:
    """Take options out of a query."""
    pairs = parse_qsl(query.removeprefix("?"))
    rest = urlencode([(key, value) for key, value in pairs if key not in names])
    return f"?{rest}" if rest else "", {key: value for key, value in pairs if key in names}


def _unreadable(url: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"The store {without_password(url)!r} cannot be read ({error}). Use {FORMS}.")
