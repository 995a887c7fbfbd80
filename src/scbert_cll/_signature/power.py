"""What another design could find, where too few donors have every class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._signature.data import PseudobulkData
from scbert_cll._signature.moderated import Moderated

_POWER = 0.8
_CHANGED = 0.01  # share of the genes


def detectable(test: Moderated, alpha: float) -> float:
    """Log2 fold change that is found in a gene of median error.

    With a power of 80 %, at the p that Benjamini and Hochberg's procedure asks for where 1 % of the
    genes are found.
    """
    asked = stats.t.isf(alpha * _CHANGED / 2, test.df) + stats.t.ppf(_POWER, test.df)
    return float(asked * np.median(test.error))


def other_design(data: PseudobulkData) -> str:
    """The design that these donors allow, what it assumes and what it can find; or nothing."""
    limits = replace(data.limits, design="between")
    other = replace(data, limits=limits, covariates=pd.DataFrame(index=data.covariates.index))
    enough = len(data.classes) == 2 and other.sampled.sum().min() >= limits.min_donors
    if not enough or not len(data.counts.tested.genes):
        return ""
    change = detectable(other.design.test(), limits.alpha)
    return (
        f". design='between' would compare {len(other.sampled)} donors with each other, if nothing "
        "but the class and covariates=[...] tells them apart, and find a log2 fold change of "
        f"{change:.2g} (80 % power, in a gene of median error, where 1 % of the genes change)"
    )
