"""What another design could find, where too few donors have every class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import stats

from scbert_cll._signature.data import PseudobulkData
from scbert_cll._signature.moderated import Moderated

_ALONE = "nothing but the {what} and covariates=[...] tells donors apart"
# design, donors with both classes that it needs, what it does, and what it assumes
_OTHERS = (
    (
        "both",
        2,
        "join {k} donors with both classes and {n} compared with each other",
        f"the difference is the same within and between donors and {_ALONE}",
    ),
    ("between", 0, "compare {n} donors with each other", _ALONE),
)
_POWER = 0.8
_CHANGED = 0.01  # share of the genes


def detectable(test: Moderated, alpha: float) -> float:
    """Log2 fold change that is found in a gene of median error.

    With a power of 80 %, at the p that Benjamini and Hochberg's procedure asks for where 1 % of the
    genes are found.
    """
    t = stats.t.isf(alpha * _CHANGED / 2, test.df) + stats.t.ppf(_POWER, test.df)
    return float(np.median(t * test.error))


def other_design(data: PseudobulkData) -> str:
    """The design that these donors allow, what it assumes and what it can find; or nothing."""
    limits, is_number = data.limits, data.number is not None
    if not len(data.counts.tested.genes) or (len(data.classes) != 2 and not is_number):
        return ""
    for design, least, words, condition in _OTHERS:
        other = replace(data.between, limits=replace(limits, design=design))
        n = len(other.sampled)
        allowed = design != limits.design and least <= other.n_complete < n
        if is_number:
            allowed = design == "between" != limits.design and n > limits.min_donors
            allowed = allowed and other.design.fit.estimable
        if allowed and not other.too_few:
            change = detectable(other.design.test(), limits.alpha)
            what, per = ("number", " per 1 of it") if is_number else ("class", "")
            return (
                f". design={design!r} would {words.format(n=n, k=other.n_complete)}, if "
                f"{condition.format(what=what)}, and find a log2 fold change{per} of {change:.2g} "
                "(80 % power, in a gene of median error, where 1 % of the genes change)"
            )
    return ""
