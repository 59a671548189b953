"""The tutorial and the README's example, done step by step with a real worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pages import Walk
from tests.support.worker import ROOT

TUTORIAL = ["first-job", "when-a-job-fails", "first-batch"]


@pytest.mark.slow
def test_the_tutorial_works_from_the_first_step_to_the_last(tmp_path: Path) -> None:
    with Walk(tmp_path) as walk:
        for page in TUTORIAL:
            assert walk.through(ROOT / "docs" / "tutorial" / f"{page}.md")


def test_no_page_of_the_tutorial_is_left_out() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "tutorial").glob("*.md")}
    assert pages - {"index"} == set(TUTORIAL)


@pytest.mark.parametrize("page", ["README.md"])
def test_what_a_page_tells_to_do_works(page: str, tmp_path: Path) -> None:
    with Walk(tmp_path) as walk:
        assert walk.through(ROOT / page)
