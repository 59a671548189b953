"""Makes pytest run the Python code in the pages and in the README; `make docs` asks for it.

The blocks of a page run from top to bottom and share their names. A block that is shown only is
marked `python` no less, with a comment before it that says why it does not run:

    <!--- skip: next "needs a web server" -->
"""

from __future__ import annotations

from doctest import ELLIPSIS
from pathlib import Path

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS), SkipParser()],
    path=str(Path(__file__).parent),
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
).pytest()
