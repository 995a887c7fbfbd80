"""What the gated cells say of each donor: percentage, bimodality and the clinical class."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from scbert_cll import _keys
from scbert_cll._protein.cite_seq import Levels
from scbert_cll.pp import _mixture

# A second population of a donor counts as one from this share of its cells, and is looked for from
# this many cells.
_BIMODAL_WEIGHT, _BIMODAL_CELLS = 0.05, 50
_CLINICAL_PCT = 30.0


def donor_table(
    levels: Levels, donor_of: pd.Series, label: pd.Series, cuts: pd.DataFrame
) -> pd.DataFrame:
    """One row per donor with gated cells."""
    donor = donor_of.to_numpy(dtype=object)
    threshold = cuts["threshold"].reindex(levels.batch).to_numpy()  # NaN: has none
    rows = {}
    for name in sorted(set(donor[levels.gated])):
        here = levels.gated & (donor == name)
        codes = label[here].cat.codes
        rows[name] = {
            "n_cells": int(here.sum()),
            "n_neg": int((codes == 0).sum()),
            "n_pos": int((codes == 1).sum()),
            **_percentage(levels.level[here] - threshold[here]),
            **_bimodal(levels.spread[here], threshold[here]),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("donor")
    pct, bimodal = table["pct_positive"], table["bimodal"]
    is_low = pct < _CLINICAL_PCT
    conditions = [pct.isna(), bimodal & is_low, bimodal, is_low]
    code = np.select(conditions, [-1, 1, 2, 0], 3)  # -1: no percentage
    classes, calls = pd.Index(_keys.DONOR_CLASSES), pd.Index(["negative", "positive"])
    return table.assign(
        clinical_class=pd.Categorical.from_codes(code, classes),
        cd49d_call=pd.Categorical.from_codes(np.sign(code), calls),
    )


def _percentage(above: np.ndarray) -> dict[str, float]:
    if np.isnan(above).any():
        return dict.fromkeys(("pct_positive", "ci_low", "ci_high"), np.nan)
    n = int((above >= 0).sum())
    ci = binomtest(n, above.size).proportion_ci(method="wilson")
    pct = 100 * n / above.size
    return {"pct_positive": pct, "ci_low": 100 * ci.low, "ci_high": 100 * ci.high}


def _bimodal(spread: np.ndarray, threshold: np.ndarray) -> dict[str, float | bool]:
    """Whether a donor's own cells form two populations, on two sides of any threshold."""
    if spread.size < _BIMODAL_CELLS:
        return {"ashman_d": np.nan, "bimodal": False}
    mixture = _mixture.fit(spread, seed=0)
    middle = np.median(threshold)  # of the donor's batches
    sides = np.isnan(middle) or mixture.means[0] < middle < mixture.means[1]
    two = mixture.separable and mixture.weights.min() >= _BIMODAL_WEIGHT and sides
    return {"ashman_d": mixture.ashman_d, "bimodal": bool(two)}
