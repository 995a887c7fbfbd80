"""Numbers on pages come from files that a benchmark wrote: tables are made of them again, sentences
are filled in again.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import PathCollection

ROOT = Path(__file__).parents[2]
DOCS, BENCHMARKS = ROOT / "docs", ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
SETS = ["toy", "bmmc", "CD45RA", "TIGIT", "CD127", "CD4", "CD8a", "t_versus_b"]
PROTEINS = SETS[2:7]
RESAMPLED = ("oversample", "smote", "undersample")
AREA = "auroc_within"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A script of the benchmarks, to be asked for its tables."""
    monkeypatch.syspath_prepend(str(ROOT))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(f"benchmarks.{name}")

    yield load
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == BENCHMARKS.name:  # folders without a file, too
            del sys.modules[name]


def of_json(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


# -- tables
# --------------------------------------------------------------------------------------------------

TABLES: dict[str, tuple[str, Callable[[ModuleType], str]]] = {
    "docs/_static/evaluation/tables.md": (
        "evaluation._page",
        lambda m: m.tables(RESULTS / "evaluation"),
    ),
    "docs/_static/signature/tables.md": ("signature.__main__", lambda m: m.page()),
    "docs/_static/signature/programmes.md": (
        "signature.programmes",
        lambda m: m.markdown(of_json("programmes.json")),
    ),
    "docs/_static/signature/attribution.md": (
        "signature.attribution",
        lambda m: m.markdown(of_json("attribution.json")["rows"]),
    ),
    "docs/_static/real_data/bmmc.md": ("evaluation.real_data", lambda m: m.table("bmmc")),
    "docs/_static/real_data/pbmc.md": ("evaluation.real_data", lambda m: m.table("pbmc")),
    "benchmarks/results/engine.md": (
        "engine._tables",
        lambda m: m.markdown(of_json("engine.json")),
    ),
    "benchmarks/results/corpus.md": ("corpus.__main__", lambda m: m.page()),
    "benchmarks/results/prognosis.md": (
        "prognosis.__main__",
        lambda m: m.table(of_json("prognosis.json")["beside"]),
    ),
    "benchmarks/results/prognosis_truth.md": (
        "prognosis.truth",
        lambda m: m.markdown(m.summary(pd.DataFrame(of_json("prognosis_truth.json")["runs"]))),
    ),
    "benchmarks/results/nonadditive/tables.md": (
        "signature.nonadditive",
        lambda m: m.markdown(
            pd.read_csv(RESULTS / "nonadditive" / "genes.csv"),
            of_json("nonadditive/run.json")["runs"],
        ),
    ),
}
WRITTEN_ONLY = {
    "benchmarks/results/prognosis_nothing.md"
}  # its script writes the table and no numbers


@pytest.mark.parametrize("path", TABLES)
def test_a_table_is_what_its_script_makes_of_the_results(
    path: str, script: Callable[[str], ModuleType]
) -> None:
    name, made = TABLES[path]
    assert made(script(name)).strip() == (ROOT / path).read_text().strip()


def test_every_table_that_a_page_includes_is_checked() -> None:
    included = set()
    for page in [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]:
        for found in re.findall(r"```\{include\} (\S+)", page.read_text()):
            included.add(str((page.parent / found).resolve().relative_to(ROOT)))
    assert included - {"README.md", "CHANGELOG.md"} == set(TABLES) | WRITTEN_ONLY


@pytest.mark.parametrize("name", ["toy", "bmmc"])
def test_a_figure_shows_the_results(name: str, script: Callable[[str], ModuleType]) -> None:
    """Its dots are the estimates in the file, and no model is left of chance because folds were
    pooled.
    """
    fig = script("evaluation._page").figure(RESULTS / "evaluation" / name)
    for ax, metric in zip(fig.axes, ("macro_f1", AREA), strict=True):
        single = [
            c.get_offsets()
            for c in ax.collections
            if isinstance(c, PathCollection) and len(c.get_offsets()) == 1
        ]
        dots = sorted(float(at[0, 0]) for at in single)
        expected = summary(name)[summary(name)["metric"] == metric]["estimate"]
        assert dots == pytest.approx(sorted(expected))
    assert summary(name).query("model == 'majority' and metric == @AREA")["estimate"].item() == 0.5
    plt.close(fig)


# -- sentences
# --------------------------------------------------------------------------------------------------


@cache
def table(name: str, kind: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / "evaluation" / name / f"{kind}.csv")


def summary(name: str) -> pd.DataFrame:
    return table(name, "summary")


def scores(name: str) -> pd.DataFrame:
    return table(name, "scores")


def of(name: str, model: str, metric: str = AREA, column: str = "estimate") -> float:
    found = summary(name).query("model == @model and metric == @metric")[column]
    return float(found.item())


def mean(model: str, metric: str) -> float:
    return float(np.mean([of(name, model, metric) for name in SETS]))


def best(metric: str, lowest: bool = False) -> list[str]:
    """Models by their mean over the sets, scBERT's parts left out."""
    models = [
        m for m in summary("toy")["model"].unique() if not m.endswith(("_network", "_linear"))
    ]
    return sorted(models, key=lambda m: mean(m, metric) * (1 if lowest else -1))


def lead(name: str, metric: str) -> pd.Series:
    """scBERT minus the best baseline of a set."""
    return table(name, "differences").query("model == 'scbert' and metric == @metric").iloc[0]


def behind(name: str, metric: str, *, without: tuple[str, ...]) -> float:
    found = summary(name).query("metric == @metric").set_index("model")["estimate"]
    others = found[[m for m in found.index if not m.startswith("scbert") and m not in without]]
    return float(found["scbert"] - others.max())


def called(model: str, column: str = "predicted") -> float:
    return float(
        table("bmmc", "donors").query("model == @model and donor == 's1d2'")[column].item()
    )


def first_repeat() -> float:
    found = scores("toy").query("metric == 'macro_f1' and repeat == 0").set_index("model")["value"]
    return float(found["scbert"] - found["pseudobulk"])


def arm(kind: str, model: str, other: str = "scbert") -> float:
    return of(f"{kind}_ablations", model) - of(f"{kind}_ablations", other)


def n(value: float) -> str:
    return f"{value:.3f}"


def s(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def i(row: Any, low: str = "low", high: str = "high") -> str:
    return f"{row[low]:.3f} to {row[high]:.3f}".replace("-", "−")


def limits(name: str, model: str, metric: str = AREA) -> str:
    return i({side: of(name, model, metric, side) for side in ("low", "high")})


def both(*, make: Callable[[str], str]) -> str:
    return f"{make('toy')} and {make('bmmc')}"


def extreme(metric: str, which: Callable[..., str]) -> str:
    name = which(PROTEINS, key=lambda p: lead(p, metric)["difference"])
    return f"{s(lead(name, metric)['difference'])} ({name})"


NUMBERS = {0: "none", 2: "two", 3: "three", 5: "five"}
CLAIMS: dict[str, Callable[[], str]] = {
    "first in macro-F1": lambda: (
        f"first in macro-F1 ({n(mean('scbert', 'macro_f1'))}; next, L1 logistic regression, "
        f"{n(mean(best('macro_f1')[1], 'macro_f1'))})"
    ),
    "first in AUROC": lambda: (
        f"AUROC within donors ({n(mean('scbert', AREA))}; gradient boosting "
        f"{n(mean(best(AREA)[1], AREA))})"
    ),
    "first in Brier": lambda: (
        f"Brier score ({n(mean('scbert', 'brier'))}; L1 logistic regression "
        f"{n(mean(best('brier', lowest=True)[1], 'brier'))})"
    ),
    "sets ahead": lambda: (
        f"ahead in AUROC on {NUMBERS[sum(lead(x, AREA)['difference'] > 1e-4 for x in SETS)]} "
        f"sets of eight and in macro-F1 on "
        f"{NUMBERS[sum(lead(x, 'macro_f1')['difference'] > 1e-4 for x in SETS)]}"
    ),
    "toy": lambda: (
        f"{s(lead('toy', 'macro_f1')['difference'])} macro-F1 (95 % interval over donors and "
        f"repeats {i(lead('toy', 'macro_f1'))}) "
        f"and {s(lead('toy', AREA)['difference'])} AUROC ({i(lead('toy', AREA))})"
    ),
    "single cells": lambda: (
        f"reads single cells is {n(behind('toy', 'macro_f1', without=('pseudobulk',)))} and "
        f"{n(behind('toy', AREA, without=('pseudobulk',)))} behind"
    ),
    "one seed": lambda: f"five repeats alone would have said {s(first_repeat())}: one seed",
    "proteins": lambda: (
        f"from {extreme('macro_f1', min)} to {extreme('macro_f1', max)} in macro-F1 and from "
        f"{extreme(AREA, min)} to {extreme(AREA, max)} in AUROC"
    ),
    "proteins above zero": lambda: (
        f"ten differences "
        f"{sum(lead(p, m)['low'] > 0 for p in PROTEINS for m in ('macro_f1', AREA))} have an "
        f"interval"
    ),
    "marrow": lambda: (
        f"{s(lead('bmmc', 'macro_f1')['difference'])} macro-F1 against gradient boosting and "
        f"{s(lead('bmmc', AREA)['difference'])} AUROC against"
    ),
    "marrow called": lambda: (
        f"scBERT calls {called('scbert'):.0f} % of the cells of s1d2 positive where "
        f"{called('scbert', 'observed'):.0f} % are; the logistic "
        f"regression {called('logistic_l2'):.0f} %, gradient boosting "
        f"{called('gradient_boosting'):.0f} %"
    ),
    "permuted": lambda: (
        f"AUROC within donors is {n(of('toy_permuted', 'scbert'))} "
        f"({limits('toy_permuted', 'scbert')}). Over all cells it is "
        f"{n(of('toy_permuted', 'scbert', 'auroc'))} all the same"
    ),
    "no programme": lambda: (
        f"Without the programme it is {n(of('toy_no_programme', 'scbert'))} "
        f"({limits('toy_no_programme', 'scbert')})"
    ),
    "T versus B": lambda: (
        f"(balanced accuracy {n(of('t_versus_b', 'scbert', 'balanced_accuracy'))}, AUROC "
        f"{n(of('t_versus_b', 'scbert'))})"
    ),
    "scANVI": lambda: (
        f"is {n(of('toy_ablations', 'scbert') - of('toy_optional', 'scanvi'))} AUROC behind "
        f"scBERT on the toy (in the three folds of the "
        f"ablations) and {n(of('bmmc_optional', 'scanvi') - of('bmmc', 'scbert'))} ahead in "
        f"the marrow"
    ),
    "gene": lambda: (
        f"{n(of('toy', 'gene_only', 'macro_f1'))} macro-F1 for *ITGA4* on the toy, "
        f"{n(of('bmmc', 'gene_only', 'macro_f1'))} in the marrow"
    ),
    "ECE": lambda: (
        f"the ECE is {n(of('TIGIT', 'scbert', 'ece'))} and {n(of('CD8a', 'scbert', 'ece'))}, "
        f"against {n(of('TIGIT', 'logistic_l1', 'ece'))} and "
        f"{n(of('CD8a', 'logistic_l1', 'ece'))} of L1"
    ),
    "vectors": lambda: (
        f"falls from {n(of('toy_ablations', 'scbert_network'))} to "
        f"{n(of('toy_ablations', 'scbert_shuffled_genes_network'))} AUROC on the toy and from "
        f"{n(of('bmmc_ablations', 'scbert_network'))} to "
        f"{n(of('bmmc_ablations', 'scbert_shuffled_genes_network'))} in the marrow; with "
        f"vectors learned "
        f"from nothing, to "
        f"{both(make=lambda k: n(of(f'{k}_ablations', 'scbert_learned_genes_network')))}"
    ),
    "pretraining": lambda: (
        f"stands out of chance ({both(make=lambda k: s(arm(k, 'scbert_pretrained')))})"
    ),
    "frozen": lambda: "; ".join(
        f"{n(of(f'{k}_ablations', 'scbert_frozen'))} and "
        f"{n(of(f'{k}_ablations', 'scbert_frozen_random'))} against "
        f"{n(of(f'{k}_ablations', 'logistic_l2'))} {where}"
        for k, where in (("toy", "on the toy"), ("bmmc", "in the marrow"))
    ).replace("; ", ", "),
    "balancing": lambda: (
        f"differ by "
        f"{max(abs(arm(k, f'scbert_{how}')) for k in ('toy', 'bmmc') for how in RESAMPLED):.3f} "
        f"at most"
    ),
    "without the gene": lambda: (
        f"Without *ITGA4*: {both(make=lambda k: s(arm(k, 'scbert_without_gene')))}"
    ),
    "three networks": lambda: (
        f"Three networks averaged: {both(make=lambda k: s(arm(k, 'scbert_ensemble')))}"
    ),
    "early stopping": lambda: (
        f"({n(of('toy_ablations', 'scbert_early_stopping'))} and "
        f"{n(of('toy_ablations', 'scbert_residual'))} AUROC as a whole, against "
        f"{n(of('toy_ablations', 'scbert'))})"
    ),
    "its linear part": lambda: (
        f"from, too ({n(of('toy_ablations', 'scbert_early_stopping_linear'))})"
    ),
    "wide": lambda: (
        f"ahead in the marrow ({n(of('bmmc_ablations', 'scbert_wide'))} against "
        f"{n(of('bmmc_ablations', 'scbert'))}) and level on the toy "
        f"({n(of('toy_ablations', 'scbert_wide'))})"
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_sentence_says_what_was_measured(name: str) -> None:
    page = " ".join((DOCS / "evaluation.md").read_text().split())
    assert CLAIMS[name]() in page


def test_the_models_that_sentences_name_are_those_of_the_files() -> None:
    assert best("macro_f1")[:2] == best("brier", lowest=True)[:2] == ["scbert", "logistic_l1"]
    assert best(AREA)[:2] == ["scbert", "gradient_boosting"]
    assert lead("toy", "macro_f1")["reference"] == lead("toy", AREA)["reference"] == "pseudobulk"
    assert (lead("bmmc", "macro_f1")["reference"], lead("bmmc", AREA)["reference"]) == (
        "gradient_boosting",
        "knn",
    )
    assert all(lead(p, m)["high"] > 0 for p in PROTEINS for m in ("macro_f1", AREA)), (
        "none lies below"
    )


def test_published_intervals_contain_their_estimates() -> None:
    """Every cell of the tables with an estimate above (or before) its limits."""
    text = (DOCS / "_static" / "evaluation" / "tables.md").read_text()
    cells = re.findall(r"\| \**(-?[\d.]+)\**<br>(-?[\d.]+)–(-?[\d.]+)", text)
    cells += re.findall(r"\| (-?[\d.]+) \((-?[\d.]+)–(-?[\d.]+)\)", text)
    cells += re.findall(r"\| ([+-][\d.]+) \| ([+-][\d.]+) to ([+-][\d.]+) \|", text)
    assert len(cells) > 350
    outside = [cell for cell in cells if not float(cell[1]) <= float(cell[0]) <= float(cell[2])]
    assert not outside
