"""What the demo says of its models: compared within held-out donors, with what knowing the donor alone would give."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._cli.demo import comparison
from scbert_cll._cli.report import Report
from scbert_cll._evaluation import within_donors

OURS, NETWORK, LINEAR = "scBERT", "its network alone", "its logistic regression alone (on tokens)"
DONOR_ALONE = "knowing the donor alone"
_WORDS = {"auroc_within": "AUROC within donors", "macro_f1": "macro-F1"}


def evaluate(
    adata: AnnData, classifier: Any, report: Report, *, donor_key: str, gene: str | None, seed: int
) -> within_donors.Compared:
    """Score scBERT, baselines of the same training cells and the donor alone on the same test cells, with intervals; say what can be told apart."""
    test = comparison.labelled(adata, _keys.CD49D, _keys.SPLIT, _keys.TEST)
    obs = cast("pd.DataFrame", test.obs)
    y = obs[_keys.CD49D].cat.codes.to_numpy().astype(int)
    donors = _checks.people.donors(test, donor_key, quiet=True).to_numpy(dtype=str)
    proba = _probabilities(adata, test, y, donors, classifier, gene, seed)
    found = within_donors.compare(y, donors, proba, seed=seed)
    report.show("Test cells, never trained on", found.table, _readable(found.table))
    report.say(_what_is_shown(found, y, donors))
    for sentence in (_compared(found, donors), _with_donor_alone(found, donors)):
        report.say(sentence)
    classes = list(obs[_keys.CD49D].cat.categories)
    table = _by_donor(y, donors, proba[OURS], classes)
    report.show("Percent positive of labelled test cells, by donor", table, _readable_donors(table))
    return found


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """Each estimate with its interval."""

    def cell(row: pd.Series, metric: str) -> str:
        if np.isnan(row[metric]):
            return "undefined"
        return f"{row[metric]:.3f} [{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]"

    return pd.DataFrame(
        {word: table.apply(cell, axis=1, metric=metric) for metric, word in _WORDS.items()}
    )


def _probabilities(
    adata: AnnData,
    test: AnnData,
    y: np.ndarray,
    donors: np.ndarray,
    classifier: Any,
    gene: str | None,
    seed: int,
) -> dict[str, np.ndarray]:
    """Model → probabilities of the test cells."""
    parts = classifier.predict_parts(test)
    proba = {OURS: parts.joined.to_numpy(float), NETWORK: parts.network.to_numpy(float)}
    if parts.linear is not None:
        proba[LINEAR] = parts.linear.to_numpy(float)
    return (
        proba
        | comparison.probabilities(adata, gene=gene, seed=seed)
        | {DONOR_ALONE: within_donors.of_donor_alone(y, donors, 2)}
    )


def _what_is_shown(found: within_donors.Compared, y: np.ndarray, donors: np.ndarray) -> str:
    mixed = [donor for donor in sorted(set(donors)) if len(set(y[donors == donor])) > 1]
    which = (
        f"there are cells of both classes in {len(mixed) or 'none'} of {len(set(donors))} test "
        f"donors"
    )
    return (
        f"In brackets: 95 % intervals, {found.unit}{_of_whom(found)}. What another training "
        f"would change is not in them. There are {len(y):,} test cells. AUROC within donors "
        f"compares cells of the same donor only: {which}. "
        f"{DONOR_ALONE.capitalize()} is no model: it gives every cell its donor's share of "
        f"positive test cells."
    )


def _of_whom(found: within_donors.Compared) -> str:
    return (
        ": they speak of other cells of these donors, not of other patients"
        if found.unit == within_donors.WITHIN_DONORS
        else ""
    )


def _compared(found: within_donors.Compared, donors: np.ndarray) -> str:
    """Ahead, behind, or neither: by the interval of the paired difference, within donors."""
    metric = "auroc_within"
    values = dict(zip(found.table.index, found.table[metric].to_numpy(float), strict=True))
    others = {
        str(name): value
        for name, value in values.items()
        if name not in (OURS, NETWORK, DONOR_ALONE) and not np.isnan(value)
    }
    if np.isnan(values[OURS]) or not others:
        return (
            "Within held-out donors nothing can be compared: none of them has test cells of both "
            "classes."
        )
    best = max(others, key=lambda name: others[name])
    where = (
        "Within the held-out donors"
        if len(set(donors)) > 1
        else "Among the held-out cells of the one donor"
    )
    return (
        f"{where} of this one split scBERT {_difference(found, best, metric)}, the best of the "
        f"others."
    )


def _with_donor_alone(found: within_donors.Compared, donors: np.ndarray) -> str:
    if len(set(donors)) == 1:
        return (
            "With one donor in the test, knowing the donor alone is knowing the share of positive "
            "cells."
        )
    text = f"Over all test cells scBERT {_difference(found, DONOR_ALONE, 'macro_f1')}."
    if within_donors.difference(found, OURS, DONOR_ALONE, "macro_f1").low > 0:
        return text
    return (
        f"{text} So macro-F1 over these donors says little of a model: their shares of positive "
        f"cells alone give as much."
    )


def _difference(found: within_donors.Compared, reference: str, metric: str) -> str:
    of = within_donors.difference(found, OURS, reference, metric)
    return (
        f"{of.words} {reference} ({_WORDS[metric]} {of.value:+.3f}, 95 % interval {of.low:+.3f} "
        f"to {of.high:+.3f})"
    )


def _by_donor(
    y: np.ndarray, donors: np.ndarray, proba: np.ndarray, classes: list[str]
) -> pd.DataFrame:
    """Observed percentage with Wilson's limits, predicted percentage, and AUROC among the donor's own cells."""
    table = comparison.by_donor(
        y, donors, {OURS: (proba / proba.sum(1, keepdims=True))[None]}, classes
    )
    columns = [
        "n_cells",
        "n_positive",
        "observed",
        "observed_low",
        "observed_high",
        "predicted",
        "auroc",
    ]
    return table.set_index("donor")[columns]


def _readable_donors(table: pd.DataFrame) -> pd.DataFrame:
    """The same with Wilson's limits in brackets."""
    observed = [
        f"{row.observed:.1f} [{row.observed_low:.1f}, {row.observed_high:.1f}]"
        for row in table.itertuples()
    ]
    aurocs = ["undefined" if np.isnan(value) else f"{value:.3f}" for value in table["auroc"]]
    shown = {
        "test cells": table["n_cells"],
        "observed % [95 % by Wilson]": observed,
        "predicted %": table["predicted"].map("{:.1f}".format),
    }
    return pd.DataFrame(shown | {"AUROC of its cells": aurocs}, index=table.index)
