"""How Sphinx builds these pages."""

from __future__ import annotations

from typing import Any

from celery_laravel._version import __version__

project = "celery-laravel"
author = "The celery-laravel authors"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx's name for it
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]  # so that a diagram is drawn here and on a code host alike

default_role = "code"  # docstrings put single backquotes around names
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "celery-laravel"


def examples_are_code(  # noqa: PLR0917  Sphinx calls it
    app: Any,  # noqa: ARG001
    what: str,  # noqa: ARG001
    name: str,  # noqa: ARG001
    obj: Any,  # noqa: ARG001
    options: Any,  # noqa: ARG001
    lines: list[str],
) -> None:
    """Mark the indented examples of a docstring as code; in the source they go without the two colons."""
    marked: list[str] = []
    is_text = False  # whether the last line that was not empty is running text
    for line in lines:
        is_indented = line.startswith("    ")
        if is_indented and is_text and not marked[-1]:
            marked += ["::", ""]
        marked.append(line)
        if line:
            is_text = not is_indented
    lines[:] = marked


def setup(app: Any) -> None:
    """Hook into Sphinx; before napoleon, which makes indented lists of a docstring's sections."""
    app.connect("autodoc-process-docstring", examples_are_code, priority=400)
