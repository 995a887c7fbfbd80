"""The Python in the docs runs: quickstart, README, and the examples of the public functions."""

from __future__ import annotations

import doctest
import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import scanpy as sc

import scbert_cll as sc_cll

ROOT = Path(__file__).parents[1]
PAGES = ["docs/quickstart.md", "README.md"]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, and no windows."""
    monkeypatch.chdir(tmp_path)
    shown, sc.settings.autoshow = sc.settings.autoshow, False
    yield
    sc.settings.autoshow = shown
    plt.close("all")


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks one after the other, on a smaller toy and for one epoch."""
    small = functools.partial(sc_cll.datasets.cll_toy, n_cells=300, n_genes=200)
    monkeypatch.setattr(sc_cll.datasets, "cll_toy", small)
    names: dict[str, Any] = {}
    for block in blocks(page):
        exec(compile(re.sub(r"max_epochs=\d+", "max_epochs=1", block), page, "exec"), names)  # noqa: S102
    assert {"scbert_pred", "cd49d", "split"} <= set(names["adata"].obs)
    assert "X_umap" in names["adata"].obsm


def test_pages_have_code() -> None:
    assert all(blocks(page) for page in PAGES)


def examples() -> list[Any]:
    """Public functions and classes with examples, but for the models, which need a prepared object."""
    found = []
    for room in ("pp", "tl", "pl", "get", "datasets", "vocab"):
        if importlib.util.find_spec(f"scbert_cll.{room}") is not None:
            module = importlib.import_module(f"scbert_cll.{room}")
            found += [pytest.param(getattr(module, n), id=f"{room}.{n}") for n in getattr(module, "__all__", ())]
    return [p for p in found if ">>>" in (p.values[0].__doc__ or "")]


@pytest.mark.parametrize("thing", examples())
def test_example_runs(thing: Any) -> None:
    module = importlib.import_module(thing.__module__)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in doctest.DocTestFinder(recurse=False).find(thing, thing.__name__, module=module):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)
