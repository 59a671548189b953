"""Text for a terminal: free of control characters, measured in columns, instants readable."""

from __future__ import annotations

import difflib
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with control characters written out, line breaks and tabs apart.

    Arguments and messages of jobs may come from anywhere; what they hold must
    not move the cursor, change colours or turn the direction of the text.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """The first line of a text, with an ellipsis when there is more."""
    lines = text.strip().splitlines()
    return "" if not lines else visible(lines[0]) + (" …" if len(lines) > 1 else "")


def width(text: str) -> int:
    """How many columns a line takes: wide characters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def padded(text: str, columns: int) -> str:
    """The text with blanks behind it, up to so many columns."""
    return text + " " * (columns - width(text))


def instant(moment: datetime | None) -> str:
    """An instant in the machine's own time zone, to the second."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """A length of time in its two largest units: ``41 s``, ``3 min 5 s``, ``2 h 0 min``, ``4 d 7 h``."""
    whole = max(0, round(seconds))
    for unit, length, lower, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {lower}"
    return f"{whole} s"


def count(number: int, noun: str) -> str:
    """A number with its noun: ``1 job``, ``1,200 jobs``."""
    plural = f"{noun[:-2]}ches" if noun.endswith("ch") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """A sentence that names the ids which begin as ``wanted`` does, or else look like it; empty when none do."""
    ids = list(known)
    near = [i for i in ids if len(wanted) > 1 and i.startswith(wanted)][:3]
    near = near or difflib.get_close_matches(wanted, ids, n=3, cutoff=0.8)
    return f" Did you mean {' or '.join(near)}?" if near else ""
