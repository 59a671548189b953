"""Run the benchmarks, print a table, and keep the figures in ``results.json``: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import pkgutil
import platform
import sys
import textwrap
import time
import traceback
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import NotMeasuredError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

RESULTS = Path(__file__).with_name("results.json")
COLUMNS = ("name", "ours", "theirs", "unit", "ratio", "reach")
PACKAGES = ("celery-laravel", "celery", "kombu", "redis", "SQLAlchemy")

CAVEATS = """\
Ratios of one run on one machine, on which workers, brokers and the dispatcher share the processors: they say how
two things compare here, not how fast either is on yours. A figure is the median of {rounds} round(s), in which ours and
theirs take turns. Differences of a few hundredths are noise. Jobs do nothing; the more a job does, the closer a
ratio comes to 1.
"""


def main(arguments: Sequence[str] | None = None, *, package: str = "benchmarks", results: Path = RESULTS) -> int:
    """Measure what the arguments ask for; 1 when a benchmark broke, 2 when there is none of that name."""
    options = _options(arguments)
    names = discover(package)
    chosen = [name for name in names if not options.only or name in options.only]
    if unknown := set(options.only) - set(names):
        print(f"No benchmark {', '.join(sorted(unknown))}. There are: {', '.join(names) or 'none'}.", file=sys.stderr)
        return 2
    rounds = 1 if options.short else options.rounds
    print(CAVEATS.format(rounds=rounds))
    print(_wrap(", ".join(f"{key}: {value}" for key, value in machine().items())), end="\n\n")

    broken = []
    for name in chosen:
        print(f"{name} …", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            rows = _run(importlib.import_module(f"{package}.{name}").run, rounds, short=options.short)
        except NotMeasuredError as reason:
            print(f"{name}: not measured; {reason}\n")
            continue
        except Exception:
            traceback.print_exc()
            broken.append(name)
            continue
        print(f"{name} ({time.monotonic() - started:.0f} s)\n{table(rows)}\n", flush=True)
        if not options.short:
            keep(results, name, rows, rounds)
    if broken:
        print(f"Broken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def discover(package: str) -> list[str]:
    """The names of the package's modules that have a ``run``."""
    folders = importlib.import_module(package).__path__
    modules = [module.name for module in pkgutil.iter_modules(folders) if not module.name.startswith("_")]
    return sorted(name for name in modules if hasattr(_module(package, name), "run"))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text, each followed by its note."""
    cells = [[*(_cell(row, column) for column in COLUMNS), _verdict(row)] for row in rows]
    heads = [[*COLUMNS, ""]]
    widths = [max(len(line[i]) for line in heads + cells) for i in range(len(COLUMNS) + 1)]

    def aligned(line: Sequence[str]) -> str:
        name, *numbers = (
            cell.ljust(w) if i in {0, 3} else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join([name, *numbers]).rstrip()

    lines = [aligned(heads[0]), "─" * (sum(widths) + 2 * len(widths) - 2)]
    for row, line in zip(rows, cells, strict=True):
        lines.append(aligned(line))
        if row.get("note"):
            lines.append(_wrap(row["note"], "    "))
    return textwrap.indent("\n".join(lines), "  ")


def keep(results: Path, name: str, rows: Sequence[dict[str, Any]], rounds: int) -> None:
    """Replace the figures of one benchmark in the file, and leave those of the others."""
    kept = json.loads(results.read_text()) if results.exists() else {}
    measured_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    kept[name] = {"measured_at": measured_at, "rounds": rounds, "machine": machine(), "rows": list(rows)}
    new = results.with_suffix(".new")
    new.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    new.replace(results)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    found: dict[str, Any] = {
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the library against plain Celery."
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each is measured; the median counts (default 5)"
    )
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="one benchmark; may be given again")
    parser.add_argument("--short", action="store_true", help="one round, for a glance; results.json is left alone")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds has to be 1 or more, not {options.rounds}")
    return options


def _module(package: str, name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"{package}.{name}")
    except ImportError as error:
        print(f"{name}: not measured; {error}", file=sys.stderr)
        return None


def _run(run: Callable[..., list[dict[str, Any]]], rounds: int, *, short: bool) -> list[dict[str, Any]]:
    if "short" in inspect.signature(run).parameters:
        return run(rounds, short=short)
    return run(rounds)


def _cell(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        return "–"
    if isinstance(value, (int, float)):
        return f"≥ {value:g}" if column == "reach" else _number(value)
    return str(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"  # noqa: PLR2004 - three digits are plenty


def _verdict(row: dict[str, Any]) -> str:
    """Whether the ratio reaches what it should, where both are given."""
    ratio, reach = row.get("ratio"), row.get("reach")
    if ratio is None or reach is None:
        return ""
    bound = str(reach).replace("≥", "").replace("≤", "").replace("×", "").strip()
    try:
        limit = float(bound)
    except ValueError:
        return ""  # said in words, for a reader to judge
    reached = ratio <= limit if "≤" in str(reach) else ratio >= limit
    return "reached" if reached else "MISSED"


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 118, initial_indent=indent, subsequent_indent=indent)


if __name__ == "__main__":
    sys.exit(main())
