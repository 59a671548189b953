"""Readers of messages and records, given anything: by Hypothesis always, by atheris where it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.mutations import changed, values
from tests.fuzz.targets import SEEDS, TARGETS, read

ROOT = Path(__file__).parents[2]
RUNS = 20_000


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_good_is_read(target: str) -> None:
    reader, _ = TARGETS[target]
    for good in SEEDS[target]:
        if target != "parked" or "is_base64" in good:  # the other is in the form that is not published by us
            reader(good)


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
def test_what_is_bad_is_refused_as_the_reader_says(target: str, data: st.DataObject) -> None:
    bad: Any = data.draw(values | st.sampled_from(SEEDS[target]).flatmap(changed))
    read(target, json.dumps(bad).encode())


if find_spec("atheris") is not None:  # no part of what the tests need: `make fuzz` says how to get it

    @pytest.mark.parametrize("target", TARGETS)
    def test_what_a_fuzzer_finds_is_refused_as_the_reader_says(target: str, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "tests.fuzz", target]
        options = [f"-runs={RUNS}", "-seed=1", f"-artifact_prefix={tmp_path}/"]
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert f"Done {RUNS}" in done.stderr
