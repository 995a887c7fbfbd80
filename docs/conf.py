"""Sphinx settings. The build needs no network: no inventories are fetched, and unresolved external
types are let be.
"""

from __future__ import annotations

import re
from importlib.metadata import metadata

from sphinx.application import Sphinx

info = metadata("scbert-cll")
project = "scbert_cll"
author = info["Author"]
copyright = f"2026, {author}"  # noqa: A001
version = release = info["Version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"
default_role = "code"
templates_path = ["_templates"]
exclude_patterns = ["_build", "Thumbs.db", ".DS_Store"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": False}
napoleon_google_docstring = False
napoleon_numpy_docstring = True
RETURNS = "Returns and writes"  # prose and a list of slots, which napoleon would read as types
napoleon_custom_sections = [RETURNS]
typehints_defaults = "braces"
typehints_document_rtype = False  # "None, or the new object" is said in Returns

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "use_download_button": False,
}


def slots(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Set the Returns section as it is written: prose, then slots as a definition list."""
    for i in range(len(lines) - 1, 0, -1):
        if re.match(r"``.+`` : ", lines[i]) and lines[i - 1].strip():
            lines.insert(i, "")  # a slot may stand without a text of its own
        if lines[i].startswith("-----") and lines[i - 1] == "Returns":
            lines[i - 1 : i + 1] = [RETURNS, "-" * len(RETURNS)]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", slots, priority=100)  # before napoleon
