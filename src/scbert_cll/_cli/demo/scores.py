"""The demo's models compared within held-out donors, and with knowing the donor alone."""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._cli.demo.job import Job
from scbert_cll._evaluation import within_donors
from scbert_cll._evaluation.donors import by_donor
from scbert_cll.estimators import baselines, seeded
from scbert_cll.model import ScBERTClassifier

OURS, NETWORK = "scBERT", "its network alone"
LINEAR = "its logistic regression alone (on tokens)"
DONOR_ALONE = "knowing the donor alone"
_BASELINES = {
    "logistic_l2": "logistic regression on log expression",
    "gene_only": "logistic regression on {gene} alone",
    "majority": "majority",
}
_WORDS = {"auroc_within": "AUROC within donors", "macro_f1": "macro-F1"}
_OBSERVED = ["n_cells", "n_positive", "observed", "observed_low", "observed_high"]


def evaluate(job: Job, classifier: ScBERTClassifier) -> None:
    """Report scores of scBERT, baselines and the donor alone on the test cells, with intervals."""
    report, seed = job.report, job.options.seed
    test = _labelled(job.adata, _keys.TEST)
    labels = cast("pd.DataFrame", test.obs)[_keys.CD49D].cat
    y = labels.codes.to_numpy().astype(int)
    donors = _checks.people.donors(test, job.donor_key, quiet=True).to_numpy(dtype=str)

    parts = classifier.predict_parts(test)
    proba = {OURS: parts.joined.to_numpy(float), NETWORK: parts.network.to_numpy(float)}
    if parts.linear is not None:
        proba[LINEAR] = parts.linear.to_numpy(float)
    proba |= _baselines(job.adata, gene=job.gene, seed=seed)
    proba[DONOR_ALONE] = within_donors.of_donor_alone(y, donors, 2)

    scores = within_donors.compare(y, donors, proba, seed=seed)
    shown = pd.DataFrame(index=scores.table.index)
    for metric, words in _WORDS.items():
        shown[words] = [_interval(row, metric, 3) for _, row in scores.table.iterrows()]
    report.show("Test cells, never trained on", scores.table, shown)
    report.say(_legend(scores, y, donors))
    report.say(_within_donors(scores, n_donors=len(set(donors))))
    report.say(_over_all_cells(scores, n_donors=len(set(donors))))
    ours = {OURS: (proba[OURS] / proba[OURS].sum(1, keepdims=True))[None]}
    table = by_donor(y, donors, ours, list(labels.categories)).set_index("donor")
    table = table[[*_OBSERVED, "predicted", "auroc"]]
    shown = table[["n_cells"]].rename(columns={"n_cells": "test cells"})
    observed = [_interval(row, "observed", 1) for _, row in table.iterrows()]
    shown["observed % [95 % by Wilson]"] = observed
    shown["predicted %"] = table["predicted"].map("{:.1f}".format)
    shown["AUROC of its cells"] = table["auroc"].map(_number)
    report.show("Percent positive of labelled test cells, by donor", table, shown)


def _number(value: float, digits: int = 3) -> str:
    return "undefined" if np.isnan(value) else f"{value:.{digits}f}"


def _interval(row: pd.Series, name: str, digits: int) -> str:
    """An estimate with its limits."""
    low, high = (_number(row[f"{name}_{end}"], digits) for end in ("low", "high"))
    value = _number(row[name], digits)
    return value if np.isnan(row[name]) else f"{value} [{low}, {high}]"


def _legend(scores: within_donors.Compared, y: np.ndarray, donors: np.ndarray) -> str:
    n_mixed = sum(len(set(y[donors == donor])) > 1 for donor in set(donors))
    of_whom = ": they speak of other cells of these donors, not of other patients"
    return (
        f"In brackets: 95 % intervals, {scores.unit}"
        f"{of_whom * (scores.unit == within_donors.WITHIN_DONORS)}. What another training "
        f"would change is not in them. There are {len(y):,} test cells. AUROC within donors "
        f"compares cells of the same donor only: there are cells of both classes in "
        f"{n_mixed or 'none'} of {len(set(donors))} test donors. "
        f"{DONOR_ALONE.capitalize()} gives every cell its donor's share of "
        f"positive test cells."
    )


def _within_donors(scores: within_donors.Compared, *, n_donors: int) -> str:
    """Ahead, behind, or neither: by the interval of the paired difference, within donors."""
    values = scores.table["auroc_within"].astype(float)
    others = values.drop([OURS, NETWORK, DONOR_ALONE]).dropna()
    if np.isnan(values[OURS]) or others.empty:
        return (
            "Within held-out donors nothing can be compared: none of them has test cells of both "
            "classes."
        )
    where = "Within the held-out donors"
    if n_donors == 1:
        where = "Among the held-out cells of the one donor"
    difference, _ = _difference(scores, str(others.idxmax()), "auroc_within")
    return f"{where} of this one split scBERT {difference}, the best of the others."


def _over_all_cells(scores: within_donors.Compared, *, n_donors: int) -> str:
    if n_donors == 1:
        return (
            "With one donor in the test, knowing the donor alone is knowing the share of positive "
            "cells."
        )
    difference, is_ahead = _difference(scores, DONOR_ALONE, "macro_f1")
    so = (
        " So macro-F1 over these donors says little of a model: their shares of positive cells "
        "alone give as much."
    )
    return f"Over all test cells scBERT {difference}.{so * (not is_ahead)}"


def _difference(scores: within_donors.Compared, reference: str, metric: str) -> tuple[str, bool]:
    """How scBERT does against another in words, and whether it is ahead."""
    difference = within_donors.difference(scores, OURS, reference, metric)
    return (
        f"{difference.words} {reference} ({_WORDS[metric]} {difference.value:+.3f}, 95 % interval "
        f"{difference.low:+.3f} to {difference.high:+.3f})"
    ), difference.low > 0


def _labelled(adata: AnnData, part: str) -> AnnData:
    """Cells of a part of the split that have a label."""
    mask = (adata.obs[_keys.SPLIT] == part) & adata.obs[_keys.CD49D].notna()
    return adata[mask.to_numpy()]


def _baselines(adata: AnnData, *, gene: str | None, seed: int) -> dict[str, np.ndarray]:
    """Probabilities of the labelled test cells (n, classes) by baseline, trained as scBERT is."""
    models, layer = baselines(gene or ""), adata.uns[_keys.BINNED]["params"]["layer"]
    train, test = (_labelled(adata, part) for part in (_keys.TRAIN, _keys.TEST))
    genes = pd.DataFrame(index=adata.var_names)
    x_train, x_test = (
        AnnData(cells.X if layer == "X" else cells.layers[layer], var=genes)
        for cells in (train, test)
    )
    y = train.obs[_keys.CD49D]
    by_name: dict[str, np.ndarray] = {}
    for name, words in _BASELINES.items():
        if name == "gene_only" and gene is None:
            continue
        model = seeded(models[name], seed)
        model.fit(x_train, y.set_axis(x_train.obs_names))
        proba = pd.DataFrame(model.predict_proba(x_test), columns=model.classes_)
        proba = proba.reindex(columns=list(y.cat.categories), fill_value=0.0)
        by_name[words.format(gene=gene)] = proba.to_numpy(float)
    return by_name
