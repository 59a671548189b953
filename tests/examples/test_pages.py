"""The tutorial and the README's example, done step by step with a real worker."""

from __future__ import annotations

import re
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


def test_a_guarantee_names_a_test_that_is_there() -> None:
    promised = set(re.findall(r"`(test_\w+)", (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")))
    sources = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "celery_laravel" / "testing" / "store_suite").rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert promised
    assert [name for name in sorted(promised) if f"def {name}(" not in text] == []


def test_every_link_between_pages_leads_somewhere() -> None:
    """Sphinx checks those of its own pages; the README and its like it never sees."""
    pages = [path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []
