"""What a member of a pack brings along to its attempt: who counts it, and whether the pack is run again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from celery_laravel.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Answer = TypeVar("_Answer")

ASK_AGAIN = 5.0
"""Seconds for which a store that did not answer one member of a pack is not asked for others; each takes three."""

_PROPERTY, _TERMS = "laravel_place", "laravel_terms"


@dataclass(frozen=True)
class PackTerms:
    """What a worker's parent tells the child that runs a pack.

    ``parent`` is its process id, ``slot`` the pack's in the memory they share,
    ``sends_events`` whether task events are wanted, and ``soft_limits`` the
    seconds that a member may take, by its position; empty where none is limited.
    """

    parent: int | None = None
    slot: int | None = None
    sends_events: bool = False
    soft_limits: Sequence[float | None] = ()


@dataclass
class PackPlace:
    """A member's place in the pack that is being run; the members share one.

    ``count`` takes the index of a member that has succeeded, to be counted
    together with others. ``is_again``: the pack was begun before, so that it is
    not known whether the member was.
    """

    count: Callable[[int], None]
    is_again: bool = False
    _outage: tuple[float, StoreUnavailableError] | None = None

    def ask_store(self, call: Callable[[], _Answer]) -> _Answer:
        """Make a call of the store for a member, unless it did not answer another member a moment ago.

        Raises:
            StoreUnavailableError: The store does not answer, or did not within the last `ASK_AGAIN` seconds.
        """
        if self._outage is not None:
            since, error = self._outage
            if time.monotonic() - since < ASK_AGAIN:
                raise StoreUnavailableError(error.url, error.reason)
        try:
            return call()
        except StoreUnavailableError as error:
            self._outage = (time.monotonic(), error)
            raise


def with_place(properties: Any, place: PackPlace) -> dict[str, Any]:
    """A message's properties with a place among them; Celery copies none of them into a message that is sent again."""
    return {**(properties or {}), _PROPERTY: place}


def place_of(request: Any) -> PackPlace | None:
    """The place of a running request's job, or None when it came in a message of its own."""
    properties = getattr(request, "properties", None)
    place = properties.get(_PROPERTY) if isinstance(properties, dict) else None
    return place if isinstance(place, PackPlace) else None


def write_terms(request: dict[str, Any], terms: PackTerms) -> None:
    """Write the terms of a pack into Celery's request of it, on its way to the child."""
    request["properties"] = {**(request.get("properties") or {}), _TERMS: terms}


def terms_of(request: Any) -> PackTerms:
    """The terms that a running pack was given."""
    terms = (getattr(request, "properties", None) or {}).get(_TERMS)
    return terms if isinstance(terms, PackTerms) else PackTerms()
