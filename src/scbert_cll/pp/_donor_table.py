"""What the gated cells say about each donor: percentage, bimodality and the clinical class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from scbert_cll import _keys
from scbert_cll.pp import _mixture
from scbert_cll.pp._protein import Levels

# A second population of a donor counts as one from this share of its cells, and is looked for from
# this many cells.
_BIMODAL_WEIGHT, _BIMODAL_CELLS = 0.05, 50
_CLINICAL_PCT = 30.0


def donor_table(
    levels: Levels,
    label: pd.Series,
    batch: np.ndarray,
    donor: np.ndarray,
    gated: np.ndarray,
    cuts: pd.DataFrame,
) -> pd.DataFrame:
    """One row per donor with gated cells."""
    threshold = cuts["threshold"].reindex(batch).to_numpy()  # NaN where the method has none
    rows = {}
    for name in sorted(set(donor[gated])):
        here = gated & (donor == name)
        codes = label[here].cat.codes
        row = {
            "n_cells": int(here.sum()),
            "n_neg": int((codes == 0).sum()),
            "n_pos": int((codes == 1).sum()),
        }
        above = levels.level[here] - threshold[here]
        rows[name] = row | _percentage(above) | _bimodal(levels.spread[here], threshold[here])
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("donor")
    return table.assign(**_clinical(table))


def _percentage(above: np.ndarray) -> dict[str, float]:
    if np.isnan(above).any():
        return dict.fromkeys(("pct_positive", "ci_low", "ci_high"), np.nan)
    n = int((above >= 0).sum())
    ci = binomtest(n, above.size).proportion_ci(method="wilson")
    return {"pct_positive": 100 * n / above.size, "ci_low": 100 * ci.low, "ci_high": 100 * ci.high}


def _bimodal(spread: np.ndarray, threshold: np.ndarray) -> dict[str, float | bool]:
    """Whether a donor's own cells form two populations, on the two sides of the threshold where there is one."""
    if spread.size < _BIMODAL_CELLS:
        return {"ashman_d": np.nan, "bimodal": False}
    mixture = _mixture.fit(spread, seed=0)
    middle = np.median(threshold)  # of the donor's batch; the middle one if it has several
    sides = np.isnan(middle) or mixture.means[0] < middle < mixture.means[1]
    two = mixture.separable and mixture.weights.min() >= _BIMODAL_WEIGHT and sides
    return {"ashman_d": mixture.ashman_d, "bimodal": bool(two)}


def _clinical(table: pd.DataFrame) -> dict[str, Any]:
    """The 30 % rule and the bimodal class; missing where there is no percentage."""
    pct, bimodal = table["pct_positive"], table["bimodal"]
    code = np.select([bimodal & (pct < _CLINICAL_PCT), bimodal, pct < _CLINICAL_PCT], [1, 2, 0], 3)
    code = np.where(pct.isna(), -1, code).astype(np.intp)
    call = np.where(code < 0, -1, code > 0).astype(np.intp)
    return {
        "clinical_class": pd.Categorical.from_codes(code, categories=pd.Index(_keys.DONOR_CLASSES)),
        "cd49d_call": pd.Categorical.from_codes(
            call, categories=pd.Index(["negative", "positive"])
        ),
    }
