"""Numbers of `docs/real_data.md` come from the runs of `benchmarks.evaluation.real_data`: its
sentences are filled in again (its tables: `test_claims.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "real_data.md"
BENCHMARKS = ROOT / "benchmarks"


@cache
def found(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(
        (BENCHMARKS / "results" / "real_data" / f"{name}.json").read_text()
    )
    return result


def facts(name: str) -> dict[str, Any]:
    counted: dict[str, Any] = found(name)["cells"]
    return counted


def said(name: str, pattern: str) -> re.Match[str]:
    """What a step of the report says."""
    return next(match for step in found(name)["steps"] if (match := re.search(pattern, step)))


def score(name: str, model: str, metric: str) -> float:
    table = found(name)["tables"]["Test cells, never trained on"]
    return float(table["data"][table["index"].index(model)][table["columns"].index(metric)])


def ahead(name: str, other: str) -> float:
    """AUROC within donors of scBERT above that of another model."""
    return score(name, "scBERT", "auroc_within") - score(name, other, "auroc_within")


def lead(name: str) -> str:
    """The difference and its interval, as the report has them."""
    step = said(
        name, r"AUROC within donors ([+-][\d.]+), 95 % interval ([+-][\d.]+) to ([+-][\d.]+)"
    )
    low, high = step[2], step[3]
    return f"(AUROC {step[1]}, 95 % interval {low} to {high})".replace("-", "−")


def pretraining(name: str) -> tuple[str, str]:
    step = said(name, r"([\d.]+)% of hidden genes .* gets ([\d.]+)%")
    return step[1], step[2]


CLAIMS: dict[str, Callable[[], str]] = {
    "versions": lambda: (
        "on {date}: scbert_cll {scbert-cll}, PyTorch {torch}, scvi-tools {scvi-tools}, "
        "anndata {anndata}, scanpy {scanpy}, scikit-learn "
        "{scikit-learn}"
    ).format(date=found("bmmc")["date"], **found("bmmc")["versions"]),
    "marrow, cells": lambda: (
        f"{facts('bmmc')['n_cells']} cells of all types × {facts('bmmc')['n_genes']:,} genes, "
        f"{said('bmmc', r'(\d+) proteins')[1]} proteins"
    ),
    "marrow, mixture": lambda: "({1} against {0})".format(
        *said("bmmc", r"BIC (\d+) with two components, (\d+) with one").groups()
    ),
    "marrow, Ashman": lambda: f"although Ashman's D is {said('bmmc', r'D = ([\d.]+)')[1]}",
    "marrow, thirds": lambda: f"{set(facts('bmmc')['classes'].values()).pop()} cells each",
    "marrow, split": lambda: "one donor trains ({train} labelled cells; {val} more decide".format(
        **facts("bmmc")["labelled_in_split"]
    ),
    "marrow, held out": lambda: "held out ({test} labelled cells)".format(
        **facts("bmmc")["labelled_in_split"]
    ),
    "marrow, lead": lambda: lead("bmmc"),
    "marrow, cost": lambda: (
        f"The run took {found('bmmc')['time']} and {found('bmmc')['memory']}".replace(
            " s ", " seconds "
        )
    ),
    "marrow, pretraining": lambda: (
        "{} % of hidden genes in the right bin, where guessing a cell's commonest bin gets {} %"
    ).format(*pretraining("bmmc")),
    "marrow, gene": lambda: (
        f"found in {100 * facts('bmmc')['detected']:.0f} % of the cells, and follows the "
        f"protein weakly (Spearman's ρ {facts('bmmc')['rho']:.2f} "
        f"over all cells, {facts('bmmc')['rho_within_donors']:.2f} within donors)"
    ),
    "marrow, red cells": lambda: (
        f"{facts('bmmc')['erythroid']['CD49d+']} of the {facts('bmmc')['classes']['CD49d+']} "
        f"high cells"
    ),
    "blood, cells": lambda: (
        f"{facts('pbmc')['n_cells']:,} cells × {facts('pbmc')['n_genes']:,} variable genes"
    ),
    "blood, also": lambda: (
        f"RNA of {said('pbmc', r'([\d,]+) cells, [\d,]+ shared genes')[1]} PBMC of another person"
    ),
    "blood, labels": lambda: (
        f"{facts('pbmc')['n_labelled']:,} of {facts('pbmc')['n_cells']:,} cells are labelled "
        f"({100 * facts('pbmc')['n_labelled'] / facts('pbmc')['n_cells']:.0f} %; "
        f"{facts('pbmc')['classes']['CD45RA+']:,} positive)"
    ),
    "blood, split": lambda: "{train:,} labelled cells train, {test} are held out".format(
        **facts("pbmc")["labelled_in_split"]
    ),
    "blood, lead": lambda: lead("pbmc"),
    "blood, pretraining": lambda: (
        "puts {} % of hidden genes in the right bin against {} % for guessing".format(
            *pretraining("pbmc")
        )
    ),
    "blood, cost": lambda: (
        f"The run took {found('pbmc')['time']} beside other work on the machine, and "
        f"{found('pbmc')['memory']}"
    ),
    "marrow, the gene alone": lambda: (
        f"(macro-F1 {score('bmmc', 'logistic regression on ITGA4 alone', 'macro_f1'):.3f} for "
        f"*ITGA4*)"
    ),
    "blood, in the end": lambda: (
        f"ahead by {ahead('pbmc', 'logistic regression on log expression'):.3f} of AUROC"
    ),
}


def text() -> str:
    return " ".join(PAGE.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", CLAIMS)
def test_a_sentence_says_what_came_out(name: str) -> None:
    assert CLAIMS[name]() in text()


def test_verdicts_are_those_of_the_reports() -> None:
    assert said("bmmc", "scBERT cannot be told apart from its logistic regression alone")
    assert (
        "scBERT cannot be told apart from the best of the others, its logistic regression on tokens"
        in text()
    )
    assert said("pbmc", "scBERT is ahead of logistic regression on log expression")
    assert (
        "scBERT is ahead of the best of the others, the logistic regression on log expression"
        in text()
    )


@pytest.mark.parametrize("name", ["bmmc", "pbmc"])
def test_genes_that_the_page_names_are_among_the_first(name: str) -> None:
    start, end = {
        "bmmc": ("What attention names", "97 of the"),
        "pbmc": ("largest difference in attention", "cell type again"),
    }[name]
    passage = text().partition(start)[2].partition(end)[0]
    first = {gene for genes in facts(name)["attention"].values() for gene in genes}
    named = set(re.findall(r"\*([A-Z0-9]+)\*", passage))
    assert len(named) >= 5
    assert named <= first


def test_what_the_low_cells_are() -> None:
    kinds = facts("bmmc")["cell_types"]["CD49d-"]
    assert (
        sum(n for kind, n in kinds.items() if "naive" in kind or "Mono" in kind)
        > facts("bmmc")["classes"]["CD49d-"] / 2
    )
    assert facts("bmmc")["erythroid"]["CD49d-"] == 1
