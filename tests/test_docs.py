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
from sklearn.ensemble import RandomForestClassifier

import scbert_cll as sc_cll

ROOT = Path(__file__).parents[1]
PAGES = ["docs/quickstart.md", "README.md"]
TUTORIAL = "docs/tutorials/study_reproduced.md"
LESS = {
    r"max_epochs=\d+": "max_epochs=1",
    r"ScBERTEstimator\(": 'ScBERTEstimator(gene_embedding="learned", ',
    r'"n_splits": \d+': '"n_splits": 2',
    r"n_repeats=3": "n_repeats=1",
}


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


def small_forest(_: int, **choices: Any) -> RandomForestClassifier:
    """A forest of fewer trees than it is asked for."""
    return RandomForestClassifier(50, **choices)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the names of the tutorial hold after all blocks but those of real data, on a smaller toy and for one epoch."""
    names: dict[str, Any] = {}
    shown, sc.settings.autoshow = sc.settings.autoshow, False
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tutorial"))
        small = functools.partial(sc_cll.datasets.cll_toy, n_cells=240, n_genes=200)
        patch.setattr(sc_cll.datasets, "cll_toy", small)
        patch.setattr(sc_cll.tl, "cross_validate", functools.partial(sc_cll.tl.cross_validate, n_bootstrap=50))
        patch.setattr("scbert_cll.estimators._baselines.RandomForestClassifier", small_forest)
        for block in blocks(TUTORIAL):
            for pattern, fewer in LESS.items():
                block = re.sub(pattern, fewer, block)
            if "read_h5mu" not in block:
                exec(compile(block, TUTORIAL, "exec"), names)  # noqa: S102
    sc.settings.autoshow = shown
    plt.close("all")
    return names


@pytest.mark.slow
def test_tutorial_scores_every_model_on_held_out_donors(tutorial: dict[str, Any]) -> None:
    for key, models in (("cv", tutorial["models"]), ("cv_two", tutorial["two"]), ("cv_steps", tutorial["steps"])):
        found = tutorial["adata"].uns[key]
        assert set(models) <= set(found["summary"]["model"])
        assert (found["unit"], found["n_units"], found["params"]["scheme"]) == ("donor", 10, "group_kfold")


@pytest.mark.slow
def test_tutorial_finds_the_leaks_it_makes(tutorial: dict[str, Any]) -> None:
    status = tutorial["report"].findings.set_index("check")["status"]
    assert status[["exact duplicates", "shared donors"]].tolist() == ["leak", "leak"]


@pytest.mark.slow
def test_tutorial_works_without_a_programme_only_by_the_study(tutorial: dict[str, Any]) -> None:
    forest = tutorial["both"]["none"].loc["random_forest"]
    assert forest["study"] > 0.8
    assert forest["estimate"] < 0.4


def test_quickstart_says_what_its_signature_finds() -> None:
    mdata = sc_cll.datasets.cll_toy(n_bimodal=6)
    adata = mdata["rna"]
    sc_cll.pp.label_cd49d(mdata, cells=sc_cll.pp.cll_mask(mdata), donor_key="donor")
    sc_cll.tl.signature(adata)
    genes = sc_cll.get.signature(adata)["gene"]
    n_planted = genes.isin(adata.uns["truth"]["gene"]).sum()
    assert (adata.uns["signature"]["n_donors"], len(genes) - n_planted, "ITGA4" in set(genes)) == (6, 2, True)
    said = f"{len(genes)} genes pass, with six donors: {n_planted} of the 30 planted ones, *ITGA4*"
    assert said in (ROOT / "docs/quickstart.md").read_text()


def test_pages_have_code() -> None:
    assert all(blocks(page) for page in PAGES)


def examples() -> list[Any]:
    """Public functions and classes with examples, but for the models, which need a prepared object."""
    found = []
    for room in ("pp", "tl", "pl", "get", "io", "estimators", "datasets", "vocab"):
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
