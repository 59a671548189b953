from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

QUICK = """
def run(rounds, short=False):
    return [
        {"name": "no-op", "ours": 980.4, "theirs": 12345.6, "unit": "jobs/s", "ratio": 0.97, "reach": "≥ 0.98"},
        {"name": "start", "ours": 1, "theirs": None, "unit": f"{rounds}/{short}", "ratio": 1.1, "reach": "≤ 1.15"},
    ]
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    package = tmp_path / "somebenchmarks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "quick.py").write_text(QUICK)
    (package / "helpers.py").write_text("x = 1")
    (package / "broken.py").write_text("def run(rounds): raise RuntimeError('out of order')")
    (package / "serverless.py").write_text(
        "from benchmarks import NotMeasuredError\ndef run(rounds): raise NotMeasuredError('no Redis here')"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda *arguments: main(arguments, package="somebenchmarks", results=tmp_path / "results.json")
    for name in [name for name in sys.modules if name.startswith("somebenchmarks")]:
        del sys.modules[name]


def test_rows_are_printed_after_the_caveats_and_kept(
    bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--only", "quick", "--rounds", "3") == 0
    out = capsys.readouterr().out
    assert out.startswith("Ratios of one run on one machine")
    assert "MISSED" in out
    assert "reached" in out
    assert "12,346" in out
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["quick"]["rounds"] == 3
    assert [row["name"] for row in kept["quick"]["rows"]] == ["no-op", "start"]


def test_one_that_breaks_is_told_at_the_end_and_keeps_no_other_from_running(
    bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench() == 1
    captured = capsys.readouterr()
    assert "Broken: broken" in captured.err
    assert "serverless: not measured; no Redis here" in captured.out
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["quick"]


def test_a_glance_is_one_round_and_leaves_the_kept_figures_alone(
    bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--only", "quick", "--short") == 0
    assert "1/True" in capsys.readouterr().out
    assert not (tmp_path / "results.json").exists()


def test_a_name_that_is_not_there_is_answered_with_those_that_are(
    bench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--only", "quik") == 2
    assert "There are: broken, quick, serverless." in capsys.readouterr().err
