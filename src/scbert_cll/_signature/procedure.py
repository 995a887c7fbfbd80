"""The genes that go with a class, donor by donor, with their evidence; or why there are none."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scbert_cll._checks.words import listed
from scbert_cll._signature import linear_filter, slope
from scbert_cll._signature.both import LEVEL, MixedDesign
from scbert_cll._signature.covariates import encoded
from scbert_cll._signature.data import FEWEST, PseudobulkData
from scbert_cll._signature.power import other_design

_OF_A_PART = ("log2_fc", "error", "low", "high")


class Signature(NamedTuple):
    """Evidence per tested gene, why nothing is selected (or ""), and facts of the test."""

    genes: pd.DataFrame
    reason: str
    facts: dict[str, Any]

    @property
    def selected(self) -> list[str]:
        """Names of the selected genes."""
        return selected_names(self.genes)


def selected_names(genes: pd.DataFrame) -> list[str]:
    """Names of the selected genes of a table, which may be empty."""
    return genes.loc[genes["selected"], "gene"].tolist() if len(genes) else []


def find(data: PseudobulkData) -> Signature:
    """Pseudobulk, size factors, moderated t, Benjamini and Hochberg, and the linear filter."""
    names, reason = data.counts.tested.genes, ""
    if not data.enough():
        reason = _too_few_donors(data)
    elif not len(names):
        reason = f"no gene is found in {data.limits.min_detected:.0%} of the cells"
    else:
        reason = _too_many_covariates(data)
    if reason:
        return Signature(pd.DataFrame(), reason, {"n_donors": 0, "n_tested": 0})
    design, test, alpha = data.design, data.design.test(), data.limits.alpha
    parts = np.ones(len(names), dtype=bool)
    beside, facts = dict[str, np.ndarray](), dict[str, Any]()
    if isinstance(design, MixedDesign):
        parts, beside, facts = _both_parts(design)
        if not design.joined.agree:
            return _within_instead(data, facts)
    coefficient = _coefficients(data)
    gate = linear_filter.threshold(coefficient)
    sign = np.sign(test.effect).astype(np.int64)
    agrees = (np.sign(coefficient) == sign) & (np.abs(coefficient) > gate)
    n_left_out = np.zeros(len(names), dtype=np.int64)  # with the linear filter as it is
    for donor in design.donors if len(design.donors) > FEWEST else []:
        others = design.without(donor).test()
        passes = others.q < alpha
        n_left_out += (np.sign(others.effect) == sign) & passes & agrees & parts
    columns = {
        "gene": names.astype(str),
        "sign": sign,
        "selected": (test.q < alpha) & agrees & parts,
        **test.evidence,
        "coefficient": coefficient,
        "agrees": agrees,
        "n_same_sign": (np.sign(design.differences.to_numpy()) == sign).sum(axis=0),
        "n_left_out": n_left_out,  # donors without which it is found, one at a time
        "abundance": design.abundance,
        "detected": data.counts.tested.detected,
    }
    table = pd.DataFrame(columns | beside)
    facts |= {"n_donors": len(design.donors), "n_tested": len(names), "gate": gate}
    facts |= {"df": float(np.median(test.df)), "df_prior": float(min(test.df_prior, 1e6))}
    if not table["selected"].any():
        reason = _none_selected(table, alpha)
    table = table.sort_values(["selected", "q", "p"], ascending=[False, True, True])
    return Signature(table.reset_index(drop=True), reason, facts)


def _both_parts(design: MixedDesign) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Genes whose parts do not disagree, columns of both parts, and what is said of all genes."""
    joined = design.joined
    beside = {"p_disagree": joined.p_disagree}
    for name, part in (("within", joined.within), ("between", joined.between)):
        numbers = part.evidence
        beside |= {f"{column}_{name}": numbers[column] for column in _OF_A_PART}
    n_within = len(design.inside.donors)
    facts: dict[str, Any] = {"n_donors_within": n_within, "share_disagree": joined.share}
    words = f"the difference between donors is another than that within them in {joined.share:.1%}"
    words += f" of the genes (p < {LEVEL:g}), where chance explains {joined.most:.1%}"
    facts["verdict"] = ("" if joined.agree else "not ") + f"joined: {words}"
    return joined.p_disagree > LEVEL, beside, facts


def _within_instead(data: PseudobulkData, facts: dict[str, Any]) -> Signature:
    """The signature within donors, where donors of one class tell another story."""
    facts = {name: facts[name] for name in ("share_disagree", "verdict")}
    if not data.inside.enough():
        few = f"{_donors(data.n_complete)} of both classes are too few for a signature within them"
        reason = f"{facts['verdict']}; {few} ({data.limits.min_donors} are needed)"
        return Signature(pd.DataFrame(), reason, {"n_donors": 0, "n_tested": 0} | facts)
    inside = find(data.inside)
    reason = f"{facts['verdict']}; {inside.reason}" if inside.reason else ""
    return Signature(inside.genes, reason, inside.facts | facts)


def _coefficients(data: PseudobulkData) -> np.ndarray:
    """Coefficients of a classifier that tells the extreme classes apart, in the samples' cells."""
    codes, rows = data.codes, data.extremes
    if data.number is not None:
        codes = slope.outer(codes, data.donors, data.design)
        rows = np.flatnonzero(codes >= 0)
    counts, donors = data.counts.tested.matrix[rows], data.donors[rows]
    covariates = encoded(data.covariates.iloc[rows]).to_numpy()
    return linear_filter.coefficients(counts, codes[rows] > 0, donors, covariates)


def _too_few_donors(data: PseudobulkData) -> str:
    names, limits = data.complete_donors, data.limits
    if data.number is not None:
        return _too_few_numbers(data)
    if limits.design == "both" and data.n_complete < FEWEST:
        has = "has" if data.n_complete == 1 else "have"
        return (
            f"{_donors(data.n_complete)} of {len(names)} {has} {limits.min_cells} cells of both "
            f"classes, and design='both' needs {FEWEST}{other_design(data)}"
        )
    if not limits.within:
        each = "; ".join(f"{name}: {n}" for name, n in data.sampled.sum().items())
        return (
            f"{len(names)} donors are mostly of one class ({each}), and {limits.min_donors} of "
            "each are needed"
        )
    enough = (data.n_cells >= limits.min_cells).sum()
    each = "; ".join(f"{name}: {_donors(n)}" for name, n in enough.items())
    return (
        f"{_donors(len(names))} {'has' if len(names) == 1 else 'have'} {limits.min_cells} cells "
        f"of every class ({', '.join(names) or 'none'}; {each}), and {limits.min_donors} are "
        f"needed to tell genes from donors{other_design(data)}"
    )


def _too_few_numbers(data: PseudobulkData) -> str:
    names, limits = data.complete_donors, data.limits
    has, cells = "has" if len(names) == 1 else "have", f"{limits.min_cells} cells"
    what = f"{has} {cells} with a number"
    if limits.within:
        what = f"{has} two groups of {cells} or more that differ enough in the number"
    which = f"{_donors(len(names))} {what} ({', '.join(names) or 'none'})"
    return f"{which}, and {limits.min_donors} are needed{other_design(data)}"


def _too_many_covariates(data: PseudobulkData) -> str:
    design, least = data.design, data.limits.min_donors - 1
    n, df = len(design.donors), design.df
    keys, has_slope = data.covariates.columns, data.number is not None and not design.within
    beside = ["the slope"] * has_slope + [f"the covariates {listed(keys)}"] * bool(len(keys))
    if df < least:
        fewer = ", or fewer covariates" if len(keys) else ""
        return (
            f"{_donors(n)} leave {max(df, 0)} degrees of freedom beside {' and '.join(beside)}, "
            f"and {least} are needed: {_donors(n + least - df)}{fewer}"
        )
    inside = design.inside if isinstance(design, MixedDesign) else design
    if not (design.fit.estimable and inside.fit.estimable):
        what = "class" if data.number is None else "number"
        if len(keys):
            return f"the covariates {listed(keys)} cannot be told from the {what}"
        return f"the number is the same in the {_donors(n)} that are compared"
    return ""


def _donors(n: int) -> str:
    return "1 donor" if n == 1 else f"{n} donors"


def _none_selected(table: pd.DataFrame, alpha: float) -> str:
    n = int((table["q"] < alpha).sum())
    if not n:
        return f"no gene has q < {alpha:g}; the smallest is {table['q'].min():.2g}"
    genes, them = ("1 gene has", "it") if n == 1 else (f"{n} genes have", "any of them")
    return f"{genes} q < {alpha:g}, and the linear classifier does not agree on {them}"
