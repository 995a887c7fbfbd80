"""Which genes go with a class, donor by donor, with the evidence for each.

Nothing where there is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse, stats

from scbert_cll._signature import linear_filter
from scbert_cll._signature.design import Design, design_of, enough_between, enough_within
from scbert_cll._signature.moderated import Moderated
from scbert_cll._signature.pseudobulk import cells_per_donor

_FEWEST = 2  # donors that have a variance, and that cannot spare one


@dataclass(frozen=True)
class Limits:
    """What a donor, a gene and a result have to meet."""

    min_cells: int = 20
    min_donors: int = 4
    min_detected: float = 0.02
    alpha: float = 0.05
    paired: bool = True


@dataclass(frozen=True)
class Found:
    """Evidence per tested gene, the samples behind it, and why nothing is selected (or an empty text)."""

    genes: pd.DataFrame
    samples: pd.DataFrame
    expression: pd.DataFrame  # genes × "donor|class", log2 of the scaled sums
    differences: pd.DataFrame  # genes × donors, log2
    n_cells: pd.DataFrame
    reason: str
    facts: dict[str, float | int]

    @property
    def n_selected(self) -> int:
        """Genes of the signature."""
        return int(self.genes["selected"].sum()) if len(self.genes) else 0


def find(
    counts: sparse.csr_matrix,
    names: pd.Index,
    codes: np.ndarray,
    donors: np.ndarray,
    classes: list[str],
    limits: Limits,
) -> Found:
    """Pseudobulk, size factors, moderated t, Benjamini and Hochberg, and the linear gate."""
    known = np.flatnonzero(codes >= 0)
    counts, codes, donors = counts[known], codes[known], donors[known]
    n_cells = cells_per_donor(codes, donors, classes)
    kept = (enough_within if limits.paired else enough_between)(n_cells, limits.min_cells)
    if not _enough_donors(kept, limits):
        return _nothing(n_cells, _too_few(n_cells, kept, limits))
    detected = (
        np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1]) / counts.shape[0]
    )
    tested = np.flatnonzero(detected >= limits.min_detected)
    if not len(tested):
        return _nothing(n_cells, f"no gene is found in {limits.min_detected:.0%} of the cells")
    counts, names = counts[:, tested], names[tested]
    design = design_of(counts, codes, donors, kept, within=limits.paired, alpha=limits.alpha)
    own = np.isin(codes, [0, len(classes) - 1])  # the gate tells the outer classes apart
    if not limits.paired:
        own &= kept.to_numpy()[kept.index.get_indexer(pd.Index(donors)), codes] & np.isin(
            donors, kept.index
        )
    coefficient = linear_filter.coefficients(
        counts[np.flatnonzero(own)], codes[own] > 0, donors[own]
    )
    abundance = design.samples.log.mean(axis=0)
    test = design.test(abundance)
    table = _table(names, test, coefficient, limits)
    differences = design.differences.T.set_axis(names)
    same = np.sign(differences.to_numpy()) == table["sign"].to_numpy()[:, None]
    table = table.assign(
        n_same_sign=same.sum(axis=1),
        n_left_out=_left_out(design, table, limits),
        abundance=abundance,
        detected=detected[tested],
    )
    facts: dict[str, float | int] = {"n_donors": len(design.donors), "n_tested": len(tested)}
    facts |= {
        "df": float(test.df),
        "df_prior": float(min(test.df_prior, 1e6)),
        "gate": linear_filter.threshold(coefficient),
    }
    order = table.sort_values(
        ["selected", "q", "p"], ascending=[False, True, True], kind="stable"
    ).index
    of_samples = design.samples.table(classes)
    expression = pd.DataFrame(
        design.samples.log.T, names, of_samples["donor"] + "|" + of_samples["class"]
    )
    reason = "" if table["selected"].any() else _none(table, limits)
    return Found(
        table.loc[order].reset_index(drop=True),
        of_samples,
        expression,
        differences,
        n_cells,
        reason,
        facts,
    )


def _enough_donors(kept: pd.DataFrame, limits: Limits) -> bool:
    """Of every class, with one of these cells per donor or all."""
    return bool((kept.sum() >= limits.min_donors).all())


def _table(
    names: pd.Index, test: Moderated, coefficient: np.ndarray, limits: Limits
) -> pd.DataFrame:
    """One row per tested gene."""
    q = stats.false_discovery_control(test.p)
    reach = test.error * stats.t.ppf(0.975, test.df)
    sign = np.sign(test.effect).astype(np.int64)
    agrees = (np.sign(coefficient) == sign) & (
        np.abs(coefficient) > linear_filter.threshold(coefficient)
    )
    columns = {"gene": names.astype(str), "sign": sign, "selected": (q < limits.alpha) & agrees}
    columns |= {
        "log2_fc": test.effect,
        "error": test.error,
        "low": test.effect - reach,
        "high": test.effect + reach,
    }
    columns |= {"t": test.t, "p": test.p, "q": q, "coefficient": coefficient, "agrees": agrees}
    return pd.DataFrame(columns)


def _left_out(design: Design, table: pd.DataFrame, limits: Limits) -> np.ndarray:
    """Without how many of the donors, one at a time, the gene is still found with the same sign (the gate as it is)."""
    count = np.zeros(len(table), dtype=np.int64)
    for donor in design.donors if len(design.donors) > _FEWEST else []:
        rest = design.without(donor)
        test = rest.test(rest.samples.log.mean(axis=0))
        same = np.sign(test.effect) == table["sign"].to_numpy()
        count += (
            same
            & (stats.false_discovery_control(test.p) < limits.alpha)
            & table["agrees"].to_numpy()
        )
    return count


def _nothing(n_cells: pd.DataFrame, reason: str) -> Found:
    empty = pd.DataFrame()
    return Found(empty, empty, empty, empty, n_cells, reason, {"n_donors": 0, "n_tested": 0})


def _too_few(n_cells: pd.DataFrame, kept: pd.DataFrame, limits: Limits) -> str:
    have = ", ".join(kept.index.astype(str)) or "none"
    if limits.paired:
        enough = (n_cells >= limits.min_cells).sum()
        each = "; ".join(f"{name}: {_donors(n)}" for name, n in enough.items())
        return (
            f"{_donors(len(kept))} {'has' if len(kept) == 1 else 'have'} {limits.min_cells} "
            f"cells of every class ({have}; {each}), "
            f"and {limits.min_donors} are needed to tell genes from donors"
        )
    each = "; ".join(f"{name}: {n}" for name, n in kept.sum().items())
    return (
        f"{len(kept)} donors are mostly of one class ({each}), and {limits.min_donors} of each "
        f"are needed"
    )


def _donors(n: int) -> str:
    return "1 donor" if n == 1 else f"{n} donors"


def _none(table: pd.DataFrame, limits: Limits) -> str:
    n = int((table["q"] < limits.alpha).sum())
    if n:
        genes, them = ("1 gene has", "it") if n == 1 else (f"{n} genes have", "any of them")
        return f"{genes} q < {limits.alpha:g}, and the linear classifier does not agree on {them}"
    return f"no gene has q < {limits.alpha:g}; the smallest is {table['q'].min():.2g}"
