"""Which genes differ between classes within donors, with the evidence for each; nothing where there is nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse, stats

from scbert_cll._signature import gate
from scbert_cll._signature.moderated import Moderated, moderated_t
from scbert_cll._signature.pseudobulk import Samples, cells_per_donor, samples


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
    """Pseudobulk, size factors, moderated t of paired differences, Benjamini and Hochberg, and the linear gate."""
    known = np.flatnonzero(codes >= 0)
    counts, codes, donors = counts[known], codes[known], donors[known]
    n_cells = cells_per_donor(codes, donors, classes)
    enough = n_cells >= limits.min_cells
    whole = enough.all(axis=1)
    if whole.sum() < limits.min_donors:
        return _nothing(n_cells, _too_few(enough, classes, limits))
    detected = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1]) / counts.shape[0]
    tested = np.flatnonzero(detected >= limits.min_detected)
    if not len(tested):
        return _nothing(n_cells, f"no gene is found in {limits.min_detected:.0%} of the cells")
    counts = counts[:, tested]
    pairs = samples(counts, codes, donors, enough[whole], classes)
    differences = per_donor(pairs, len(classes))
    test = moderated_t(differences, pairs.log.mean(axis=0))
    ends = np.isin(codes, [0, len(classes) - 1])  # the gate tells the outer classes apart
    coefficient = gate.coefficients(counts[np.flatnonzero(ends)], codes[ends] > 0, donors[ends])
    table = _table(names[tested], test, coefficient, detected[tested], pairs, limits)
    table["n_left_out"] = _left_out(differences, pairs, table, limits)
    reason = "" if table["selected"].any() else _none(table, limits)
    facts: dict[str, float | int] = {"n_donors": int(whole.sum()), "n_tested": len(tested)}
    facts |= {"df": float(test.df), "df_prior": float(min(test.df_prior, 1e6)), "gate": gate.threshold(coefficient)}
    by_donor = pd.DataFrame(differences.T, index=names[tested], columns=list(dict.fromkeys(pairs.donor)))
    order = table.sort_values(["selected", "q", "p"], ascending=[False, True, True], kind="stable").index
    return Found(table.loc[order].reset_index(drop=True), pairs.table(classes), by_donor, n_cells, reason, facts)


def per_donor(pairs: Samples, n_classes: int) -> np.ndarray:
    """Change in log2 from the first class to the last, donors × genes; with more classes, by the slope over all of them."""
    log = pairs.log.reshape(-1, n_classes, pairs.log.shape[1])
    step = np.arange(n_classes) - (n_classes - 1) / 2
    return np.asarray(np.tensordot(step / (step**2).sum(), log, axes=(0, 1)) * (n_classes - 1))


def _table(
    names: pd.Index, test: Moderated, coefficient: np.ndarray, detected: np.ndarray, pairs: Samples, limits: Limits
) -> pd.DataFrame:
    """One row per tested gene, the clearest first."""
    q = stats.false_discovery_control(test.p)
    reach = test.error * stats.t.ppf(0.975, test.df)
    sign = np.sign(test.effect).astype(np.int64)
    agrees = (np.sign(coefficient) == sign) & (np.abs(coefficient) > gate.threshold(coefficient))
    columns = {"gene": names.astype(str), "sign": sign, "selected": (q < limits.alpha) & agrees}
    columns |= {"log2_fc": test.effect, "error": test.error, "low": test.effect - reach, "high": test.effect + reach}
    columns |= {"t": test.t, "p": test.p, "q": q, "coefficient": coefficient, "agrees": agrees}
    columns |= {"abundance": pairs.log.mean(axis=0), "detected": detected}
    return pd.DataFrame(columns)


def _left_out(differences: np.ndarray, pairs: Samples, table: pd.DataFrame, limits: Limits) -> np.ndarray:
    """Without how many of the donors, one at a time, the gene is still found with the same sign (the gate as it is)."""
    count = np.zeros(len(table), dtype=np.int64)
    abundance = table["abundance"].to_numpy()
    for i in range(len(differences)):
        rest = np.delete(differences, i, axis=0)
        test = moderated_t(rest, abundance)
        same = np.sign(test.effect) == table["sign"].to_numpy()
        count += same & (stats.false_discovery_control(test.p) < limits.alpha) & table["agrees"].to_numpy()
    return count


def _nothing(n_cells: pd.DataFrame, reason: str) -> Found:
    empty = pd.DataFrame()
    return Found(empty, empty, empty, n_cells, reason, {"n_donors": 0, "n_tested": 0})


def _too_few(enough: pd.DataFrame, classes: list[str], limits: Limits) -> str:
    have = ", ".join(enough.index[enough.all(axis=1)].astype(str)) or "none"
    lacking = "; ".join(f"{name}: {int(enough[name].sum())} donors" for name in classes)
    return (
        f"{int(enough.all(axis=1).sum())} donors have {limits.min_cells} cells of every class ({have}; {lacking}), "
        f"and {limits.min_donors} are needed to tell genes from donors"
    )


def _none(table: pd.DataFrame, limits: Limits) -> str:
    n = int((table["q"] < limits.alpha).sum())
    if n:
        return f"{n} genes have q < {limits.alpha:g}, and the linear classifier agrees on none of them"
    return f"no gene has q < {limits.alpha:g}; the smallest is {table['q'].min():.2g}"
