"""Entries that docstrings share: all of them are used, and readers see the whole text."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import scbert_cll as sc_cll
from scbert_cll import _docs

SRC = Path(sc_cll.__file__).parent
NAMED = re.compile(r"^ *%\((\w+)(?: .+)?\)s$", re.MULTILINE)


def test_an_entry_stands_in_the_docstring() -> None:
    @_docs.shared
    def draw() -> None:
        """Draw it.

        Parameters
        ----------
        %(key tl.signature)s
        %(show)s
        """

    assert inspect.getdoc(draw) == (
        "Draw it.\n\nParameters\n----------\n"
        "key\n    Name under which ``tl.signature`` wrote.\n"
        "show\n    Whether to show the figure. By default as in scanpy.\n"
        "return_fig\n    Return the figure."
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("    %(colour)s", "colour.*figsize"),
        ("%(key)s", "key.*one word"),
        ("%(show it)s", "show.*no words"),
    ],
)
def test_a_name_that_does_not_exist_or_fit_is_refused(text: str, error: str) -> None:
    with pytest.raises((KeyError, ValueError), match=error):
        _docs.expand(text)


def test_every_entry_is_used_more_than_once() -> None:
    used = [name for path in SRC.rglob("*.py") for name in NAMED.findall(path.read_text())]
    assert {name for name in used if used.count(name) < 2} == set()
    assert set(used) == set(_docs.ENTRIES)


def test_no_reader_sees_a_template() -> None:
    """Of any module: a docstring with names of entries has been through the decorator."""
    seen = 0
    for found in pkgutil.walk_packages(sc_cll.__path__, "scbert_cll."):
        if found.name.endswith("__main__") or "%(" not in Path(_file(found)).read_text():
            continue
        for name, thing in inspect.getmembers(importlib.import_module(found.name)):
            members = [m for _, m in inspect.getmembers(thing)] if inspect.isclass(thing) else []
            for one in (thing, *members):
                text = inspect.getdoc(one) if callable(one) else None
                assert not NAMED.search(text or ""), f"{found.name}.{name}"
                seen += text is not None
    assert seen


def _file(found: pkgutil.ModuleInfo) -> str:
    spec = found.module_finder.find_spec(found.name, None)  # type: ignore[call-arg]
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


def test_help_shows_whole_entries() -> None:
    text = inspect.getdoc(sc_cll.pl.signature) or ""
    assert "Width and height of the figure in inches." in text
    assert "Name under which ``tl.signature`` wrote." in text
