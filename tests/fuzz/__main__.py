"""Fuzz one reader for as long as libFuzzer's options say: ``python -m tests.fuzz header -runs=1000000``.

The mutations are guided by what code they reach, by atheris, which is to be
installed: ``pip install atheris``. What it makes up is which parts of a good
message are replaced by what. It ends with the first message that a reader takes
in another way than it says, which it prints; the file ``crash-…`` it names
repeats it.
"""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import atheris

from tests.chaos.mutations import holder, paths

with atheris.instrument_imports(include=["celery_laravel"]):
    from tests.fuzz.targets import SEEDS, TARGETS, read

_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**63,
    1e308,
    "",
    "\x00",
    "id",
    {},
    [],
    [[]],
    {"v": 1},
    {"task": "t"},
    [0, 1],
)
_DEEPEST = 3


def message(data: atheris.FuzzedDataProvider, good: list[Any]) -> Any:
    """One of the good messages with up to three of its parts replaced, or removed."""
    tree = copy.deepcopy(good[data.ConsumeIntInRange(0, len(good) - 1)])
    for _ in range(data.ConsumeIntInRange(1, 3)):
        places = paths(tree)
        if not places:
            break
        parent, last = holder(tree, places[data.ConsumeIntInRange(0, len(places) - 1)])
        if data.ConsumeBool():
            parent[last] = _value(data)
        elif isinstance(parent, dict):
            del parent[last]
    return tree


def _value(data: atheris.FuzzedDataProvider, depth: int = 0) -> Any:
    kind = data.ConsumeIntInRange(0, 5)
    if kind == 0 or depth == _DEEPEST:
        return copy.deepcopy(_ODD[data.ConsumeIntInRange(0, len(_ODD) - 1)])
    if kind == 1:
        return data.ConsumeInt(8)
    if kind == 2:
        return data.ConsumeRegularFloat()
    if kind == 3:
        return data.ConsumeUnicodeNoSurrogates(12)
    items = [_value(data, depth + 1) for _ in range(data.ConsumeIntInRange(0, 3))]
    return items if kind == 4 else {str(number): item for number, item in enumerate(items)}


def main() -> None:
    """Fuzz the reader that is named first, with the options after it."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz {{{','.join(TARGETS)}}} [-runs=N] [-max_total_time=SECONDS] [-seed=N]")
    name, *options = sys.argv[1:]

    def test_one(data: bytes) -> None:
        text = json.dumps(message(atheris.FuzzedDataProvider(data), SEEDS[name]))
        try:
            read(name, text.encode())
        except Exception:
            sys.stderr.write(f"{name} was given {text}\n")
            raise

    atheris.Setup([sys.argv[0], *options], test_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
