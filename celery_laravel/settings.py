"""The ``laravel_*`` settings of a Celery app, read once and checked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

from celery_laravel.errors import ConfigurationError

if TYPE_CHECKING:
    from celery import Celery

EMBEDDED_STORE = "sqlite:///celery-laravel.db"


@dataclass(frozen=True)
class Settings:
    """The settings of one app. Times are in seconds; the fields are described in the reference of settings."""

    store: str
    failed_store: str
    prefix: str = "laravel"
    tries: int | None = None
    backoff: float | Sequence[float] | None = None
    timeout: float | None = None
    release_counts: bool = True
    after_commit: bool = False
    secret_key: str | Sequence[str] | None = None
    connections: Mapping[str, str] = field(default_factory=dict)
    durable_delay: float | None = 60.0
    safe_redis: bool = True
    watch: bool = False

    @property
    def store_is_untouched(self) -> bool:
        """Whether the store is the default SQLite file and nobody has needed it yet: looking into it would make it."""
        return self.store == EMBEDDED_STORE and not Path(EMBEDDED_STORE.removeprefix("sqlite:///")).exists()


KEYS = tuple(f"laravel_{f.name}" for f in fields(Settings))

_NOT_YET: dict[str, tuple[Any, str]] = {
    "laravel_after_commit": (False, "dispatch after commit"),
    "laravel_watch": (False, "the record of recent jobs"),
}
"""Settings of the documented surface whose feature this version does not have: only their "off" is taken."""


def read_settings(app: Celery) -> Settings:
    """Read and check an app's settings.

    Raises:
        ConfigurationError: A ``laravel_*`` key is unknown, or its value is of
            the wrong type; the message names the key.
    """
    given = dict(_given(app))
    for key, value in given.items():
        _check(key, value)
    values = {key.removeprefix("laravel_"): value for key, value in given.items() if value is not None}
    values.setdefault("store", _default_store(app))
    if given.get("laravel_durable_delay", _NOT_GIVEN) is None or _is_on_its_own(given, values["store"]):
        values["durable_delay"] = None
    values.setdefault("failed_store", values["store"])
    return Settings(**values)


_NOT_GIVEN = object()


def _is_on_its_own(given: Mapping[str, Any], store: str) -> bool:
    """Whether nobody has said where delays are to wait, and the store is a file that another machine does not see."""
    return store == EMBEDDED_STORE and given.get("laravel_store") is None and "laravel_durable_delay" not in given


_REDIS_SCHEMES = {"redis", "rediss", "sentinel", "redis+cluster", "rediss+cluster", "redis+socket"}
_PASSWORD_OF_HOST = re.compile(r"(://|[;,])([^/@;,:]*):[^/;,]*@")
_PASSWORD_IN_QUERY = re.compile(r"([?&][a-z_]*(?:password|passwd|secret)=)[^&;]*", re.IGNORECASE)

_settings: WeakKeyDictionary[Celery, Settings] = WeakKeyDictionary()


def settings_of(app: Celery) -> Settings:
    """The settings of an app, read the first time they are asked for."""
    try:
        return _settings[app]
    except KeyError:
        return _settings.setdefault(app, read_settings(app))


def own_connection(app: Celery) -> str | None:
    """The name under which ``laravel_connections`` has the app's own broker, if it does."""
    connections = settings_of(app).connections
    own = [app.conf.broker_url, app.conf.broker_read_url, app.conf.broker_write_url] if connections else []
    return next((name for name, url in connections.items() if url in own), None)


def forget_settings(app: Celery) -> None:
    """Read the app's settings anew the next time: its configuration has been changed."""
    _settings.pop(app, None)


def without_password(url: str) -> str:
    """A URL fit for a log, a record or a page.

    The password of every host, and of every option that is one, is replaced by asterisks.
    """
    return _PASSWORD_IN_QUERY.sub(r"\1***", _PASSWORD_OF_HOST.sub(r"\1\2:***@", url))


def _given(app: Celery) -> Iterator[tuple[str, Any]]:
    """The ``laravel_*`` keys as the user wrote them, less the app's namespace (Django's ``CELERY_LARAVEL_STORE``)."""
    namespace = f"{app.namespace}_".lower() if app.namespace else ""
    for key in app.conf:
        name = str(key).lower().removeprefix(namespace)
        if name.startswith("laravel_"):
            yield name, app.conf[key]


def _check(key: str, value: Any) -> None:
    shown = "(hidden)" if "key" in key or "secret" in key else without_password(repr(value))
    checks = {
        "laravel_store": (_is_text, "a URL such as 'redis://localhost:6379/0'"),
        "laravel_failed_store": (_is_text, "a URL, or 'null://' to keep no failed jobs"),
        "laravel_prefix": (_is_text, "a non-empty string"),
        "laravel_tries": (_is_count, "a whole number of attempts, 0 for no limit"),
        "laravel_backoff": (_is_backoff, "seconds, or a sequence of seconds"),
        "laravel_timeout": (_is_positive, "a number of seconds above 0"),
        "laravel_release_counts": (_is_bool, "True or False"),
        "laravel_after_commit": (_is_bool, "True or False"),
        "laravel_secret_key": (_is_key, "a string, or a list of strings"),
        "laravel_connections": (_is_mapping_of_texts, "a mapping of names to broker URLs"),
        "laravel_durable_delay": (_is_seconds, "a number of seconds, or None"),
        "laravel_safe_redis": (_is_bool, "True or False"),
        "laravel_watch": (_is_bool, "True or False"),
    }
    if key not in checks:
        names = [name.removeprefix("laravel_") for name in KEYS]
        near = difflib.get_close_matches(key.removeprefix("laravel_"), names, n=1)
        hint = f" Did you mean 'laravel_{near[0]}'?" if near else f" The settings are: {', '.join(KEYS)}."
        msg = f"Unknown setting {key!r} = {shown}.{hint}"
        raise ConfigurationError(msg)
    is_valid, wanted = checks[key]
    if value is not None and not is_valid(value):
        msg = f"The setting {key!r} must be {wanted}, not {shown}."
        raise ConfigurationError(msg)
    if key in _NOT_YET and value is not None and value != _NOT_YET[key][0]:
        off, feature = _NOT_YET[key]
        msg = (
            f"The setting {key!r} = {shown} asks for {feature}, which this version does not have. "
            f"Remove it, or set it to {off!r}."
        )
        raise ConfigurationError(msg)


_BROKER_OPTIONS = frozenset(
    (
        *("visibility_timeout", "polling_interval", "busy_timeout"),
        *("synchronous", "table_prefix", "queue_order_strategy", "prepare_threshold"),
    )
)
"""What the query of a ``database+…`` broker's URL may say that means nothing to a store."""


def _default_store(app: Celery) -> str:
    """The broker's URL if it is Redis, else the result backend's if Redis or SQL, else an SQLite file.

    The file lies in the working directory. A ``database+…`` broker counts with
    its database, so that an app which lives in one database keeps everything in
    it.
    """
    conf = app.conf
    broker = conf.broker_write_url or conf.broker_url
    if url := _redis_url(broker, conf.broker_transport_options):
        return url
    if (first := _first_url(broker)).startswith("database+"):
        return _without_broker_options(first.removeprefix("database+"))
    if url := _redis_url(conf.result_backend, conf.result_backend_transport_options):
        return url
    if (first := _first_url(conf.result_backend)).startswith("db+"):
        return first.removeprefix("db+")
    return EMBEDDED_STORE


def _without_broker_options(url: str) -> str:
    """The URL of a broker's database without what is the broker's business; what its driver needs stays."""
    base, _, query = url.partition("?")
    kept = [part for part in query.split("&") if part and part.partition("=")[0] not in _BROKER_OPTIONS]
    return f"{base}?{'&'.join(kept)}" if kept else base


def _redis_url(urls: Any, options: Mapping[str, Any] | None) -> str | None:
    """The URL if it is Redis, else None. Celery is told a sentinel's master by an option, the store by its URL."""
    first = _first_url(urls)
    if first.partition("://")[0] not in _REDIS_SCHEMES:
        return None
    if not first.startswith("sentinel://"):
        return first
    whole = urls if isinstance(urls, str) else ";".join(urls)
    master = (options or {}).get("master_name")
    if master is None or "master_name=" in whole:
        return str(whole)
    return f"{whole}{'&' if '?' in whole else '?'}master_name={quote(str(master))}"


def _first_url(urls: Any) -> str:
    if isinstance(urls, str):
        return urls.partition(";")[0]
    return str(urls[0]) if isinstance(urls, Sequence) and urls else ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_mapping_of_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_text(part) for item in value.items() for part in item)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _is_positive(value: Any) -> bool:
    return _is_seconds(value) and value > 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_backoff(value: Any) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return len(value) > 0 and all(_is_seconds(v) for v in value)
    return _is_seconds(value)


def _is_key(value: Any) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return len(value) > 0 and all(_is_text(v) for v in value)
    return _is_text(value)
