"""How Sphinx builds these pages."""

from __future__ import annotations

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
