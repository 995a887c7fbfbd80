"""Libraries of extras: each is named with the extra that installs it."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

from scbert_cll._optional import EXTRAS, optional, require

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"huggingface_hub": "huggingface-hub", "sksurv": "scikit-survival"}


@pytest.mark.parametrize("library", EXTRAS)
def test_the_extra_installs_the_library(library: str) -> None:
    wanted = PROJECT["optional-dependencies"][EXTRAS[library]]
    assert any(one.startswith(DISTRIBUTIONS.get(library, library)) for one in wanted)


@pytest.mark.parametrize("library", EXTRAS)
def test_a_library_that_is_not_installed_names_its_extra(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    expected = rf"A plot needs {library}.*pip install 'scbert-cll\[{EXTRAS[library]}\]'"
    with pytest.raises(ImportError, match=expected) as told:
        optional(f"{library}.sub", "A plot")
    assert told.value.name is None  # by which the command line knows an extra
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=expected):
        require(library, "A plot")


def test_what_is_installed_is_the_module() -> None:
    decoupler = pytest.importorskip("decoupler")
    assert optional("decoupler", "A plot") is decoupler
    require("decoupler", "A plot")
