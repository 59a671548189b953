"""Where the broker is and how it behaves: read once from the URL and the transport options."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from celery_laravel.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "database+"
STRATEGIES = ("round_robin", "priority", "sorted")
SYNCHRONOUS = ("off", "normal", "full", "extra")


@dataclass(frozen=True)
class BrokerOptions:
    """Everything that can be set about a database broker.

    Attributes:
        url: SQLAlchemy's URL, without ``database+`` and without these options.
        visibility_timeout: Seconds a message stays hidden after its worker was last heard of.
        polling_interval: Seconds an idle worker sleeps between two looks for new messages; None leaves it to the
            database: 0.04 on SQLite, 0.1 on servers.
        busy_timeout: Seconds to wait for another process's write, or lock, before giving up.
        synchronous: SQLite's setting; ``normal`` survives killed processes, ``full`` a power cut too.
        table_prefix: What the names of the broker's tables begin with.
        queue_order_strategy: Which of a worker's queues is asked first.
    """

    url: str
    visibility_timeout: float = 3600.0
    polling_interval: float | None = None
    busy_timeout: float = 5.0
    synchronous: str = "normal"
    table_prefix: str = "celery_broker_"
    queue_order_strategy: str = "round_robin"

    def __post_init__(self) -> None:
        for name in ("visibility_timeout", "polling_interval", "busy_timeout"):
            if name != "polling_interval" or self.polling_interval is not None:
                _require_positive(name, getattr(self, name))
        _require_one_of("queue_order_strategy", self.queue_order_strategy, STRATEGIES)
        _require_one_of("synchronous", self.synchronous, SYNCHRONOUS)
        if not self.table_prefix.isidentifier():
            raise ConfigurationError(
                f"table_prefix is {self.table_prefix!r}: use letters, digits and underscores, not a digit first"
            )


NAMES = tuple(field.name for field in fields(BrokerOptions) if field.name != "url")
_NUMBERS = ("visibility_timeout", "polling_interval", "busy_timeout")


def read_options(url: str, transport_options: Mapping[str, Any]) -> BrokerOptions:
    """Read the options from ``broker_transport_options`` and the URL's query; the URL wins.

    The rest of the query stays in the URL for the database's driver. Transport
    options that are not ours are left alone: kombu and other transports share
    that mapping.

    Raises:
        ConfigurationError: A value is of the wrong kind or out of range.
    """
    base, _, query = url.partition("?")
    given: dict[str, Any] = {name: transport_options[name] for name in NAMES if name in transport_options}
    rest: list[tuple[str, str]] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in NAMES:
            given[name] = _number(name, value) if name in _NUMBERS else value
        else:
            rest.append((name, value))
    options = BrokerOptions(url=f"{base}?{urlencode(rest)}" if rest else base)
    for name, value in given.items():
        if name not in _NUMBERS and not isinstance(value, str):
            raise ConfigurationError(f"{name} is {value!r}: give a string")
    return replace(options, **given)


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigurationError(f"{name} is {value!r} in the broker URL: give a number of seconds") from error


def _require_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigurationError(f"{name} is {value!r}: give a number of seconds above zero")


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name} is {value!r}: choose one of {', '.join(allowed)}")
